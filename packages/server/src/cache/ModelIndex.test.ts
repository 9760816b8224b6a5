import { afterEach, beforeEach, expect, spyOn, test } from "bun:test"
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { WeightHashes, type WeightSlice } from "@ggml-rpc/native/bindings"
import { ModelIndex } from "./ModelIndex.ts"

let root: string
let served: string
let index: string

beforeEach(() => {
  root = realpathSync(mkdtempSync(join(tmpdir(), "ggml-rpc-index-")))
  served = join(root, "models")
  index = join(root, "index")
  mkdirSync(served)
  mkdirSync(join(root, "other"))
})

afterEach(() => rmSync(root, { recursive: true }))

/** As the front would have written it, long after the file was. */
const hash = (path: string, slice?: WeightSlice): void => {
  const later = Date.now() + 10_000
  const clock = spyOn(Date, "now").mockImplementation(() => later)
  const place = { sizeBytes: 4, part: 0, offsetBytes: 2, slice, high: 7, low: 9 }
  WeightHashes.open([path], index).add([["w", place]])
  clock.mockRestore()
}

/** Whether a session that begins now is given the weight. */
const isFound = (of = new ModelIndex(index, [served])): boolean => {
  const file = of.open(7, 9)
  file?.close()
  return file !== undefined
}

const model = (name: string): string => join(served, name)

test.each<readonly [string, (path: string) => void]>([
  ["touched", (path) => utimesSync(path, 1, 1)],
  ["moved", (path) => renameSync(path, `${path}.old`)],
  ["deleted", (path) => rmSync(path)],
  [
    "replaced by a copy",
    (path) => {
      copyFileSync(path, `${path}.copy`)
      renameSync(`${path}.copy`, path)
    },
  ],
])("a model that was %s does not hide another one with its weights", async (_, change) => {
  for (const [first, second] of [
    ["a.gguf", "b.gguf"],
    ["d.gguf", "c.gguf"],
  ] as const) {
    for (const name of [first, second]) {
      writeFileSync(model(name), "a model")
      hash(model(name))
    }
    const open = new ModelIndex(index, [served])
    expect(isFound(open)).toBe(true)
    // Past the precision of the file's times.
    await Bun.sleep(20)
    change(model(first))
    expect([isFound(open), isFound()]).toEqual([true, true])
    change(model(second))
    expect([isFound(open), isFound()]).toEqual([false, false])
  }
})

test("a model that was given a new entry is found by it", async () => {
  writeFileSync(model("a.gguf"), "a model")
  hash(model("a.gguf"))
  await Bun.sleep(20)
  utimesSync(model("a.gguf"), 1, 1)
  expect(isFound()).toBe(false)
  hash(model("a.gguf"))
  expect(isFound()).toBe(true)
})

test("rows of a weight that lie apart are not given as what lies in one piece", () => {
  writeFileSync(model("a.gguf"), "a model")
  hash(model("a.gguf"), { fromBytes: 0, rowCount: 2, strideBytes: 3, wholeBytes: 5 })
  expect(isFound()).toBe(false)
  hash(model("a.gguf"))
  expect(isFound()).toBe(true)
})

test("what lies outside of the folders is not given, and does not hide what lies inside", () => {
  const outside = join(root, "other", "a.gguf")
  writeFileSync(outside, "a model")
  hash(outside)
  expect(isFound()).toBe(false)
  expect(isFound(new ModelIndex(index, [root]))).toBe(true)
  writeFileSync(model("a.gguf"), "a model")
  hash(model("a.gguf"))
  expect(isFound()).toBe(true)
})
