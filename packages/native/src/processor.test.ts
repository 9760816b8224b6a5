import { afterAll, beforeAll, expect, test } from "bun:test"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { availableParallelism, tmpdir } from "node:os"
import { join } from "node:path"
import { defaultThreadCount } from "./processor.ts"

let root = ""
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "ggml-rpc-cpu-"))
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

/** One text of thread_siblings a logical processor. */
const processors = (name: string, siblings: ReadonlyArray<string>): string => {
  const folder = join(root, name)
  siblings.forEach((mask, index) => {
    mkdirSync(join(folder, `cpu${index}`, "topology"), { recursive: true })
    writeFileSync(join(folder, `cpu${index}`, "topology", "thread_siblings"), `${mask}\n`)
  })
  mkdirSync(join(folder, "cpufreq"), { recursive: true })
  return folder
}

test("threads of one core count once", () => {
  expect(defaultThreadCount(processors("pair", ["3", "3"]))).toBe(1)
})

test("there are never more than this process may use", () => {
  const allowed = availableParallelism()
  const more = Array.from({ length: allowed + 2 }, (_, index) => index.toString(16))
  expect(defaultThreadCount(processors("more", more))).toBe(allowed)
})

test("without a topology it is half of many, and all of few", () => {
  const logical = availableParallelism()
  const expected = logical <= 4 ? logical : Math.floor(logical / 2)
  expect(defaultThreadCount(join(root, "none"))).toBe(expected)
  expect(defaultThreadCount(processors("empty", []))).toBe(expected)
})
