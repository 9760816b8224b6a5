import { afterAll, beforeAll, expect, test } from "bun:test"
import { mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ensureBundle } from "../scripts/bundle.ts"
import { freshBundle, isUpToDate } from "./bundle.ts"

let folder = ""

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-bundle-"))
  for (const [name, seconds] of [
    ["old.ts", 1000],
    ["new.ts", 3000],
  ] as const) {
    writeFileSync(join(folder, name), "")
    utimesSync(join(folder, name), seconds, seconds)
  }
})

afterAll(() => rmSync(folder, { recursive: true }))

const upToDate = (...inputs: ReadonlyArray<string>): boolean =>
  isUpToDate({ startedMs: 2_000_000, inputs }, folder)

test("a bundle is used until one of its sources changes", () => {
  expect(upToDate("old.ts")).toBe(true)
  expect(upToDate("old.ts", "new.ts")).toBe(false)
})

test("a bundle is not used when one of its sources is gone", () => {
  expect(upToDate("old.ts", "none.ts")).toBe(false)
})

const run = async (program: string) => {
  const child = Bun.spawn([process.execPath, "-e", program], { stdout: "pipe", stderr: "pipe" })
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()])
  return { stdout, stderr, exitCode: await child.exited }
}

const call = (module: string, args: ReadonlyArray<string>): string =>
  `const { main } = await import(${JSON.stringify(module)}); process.exit(await main(${JSON.stringify(args)}))`

test("the sources do what the bundle does", async () => {
  await ensureBundle()
  const bundle = freshBundle() ?? "none"
  const args = ["plan", join(folder, "none.gguf")]
  const fromBundle = await run(call(bundle, args))
  expect(fromBundle.exitCode).toBe(1)
  expect(fromBundle.stderr).toContain("none.gguf")
  expect(await run(call(join(import.meta.dir, "program.ts"), args))).toEqual(fromBundle)
})
