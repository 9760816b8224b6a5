import { expect, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Cancels } from "./Cancels.ts"
import { EngineStartError } from "./errors.ts"

const missing = join(tmpdir(), "ggml-rpc-no-such-folder")

test("the file lies in the first folder that takes it, and has no name", () => {
  const folder = mkdtempSync(join(tmpdir(), "ggml-rpc-cancels-"))
  const cancels = new Cancels([missing, folder])
  expect(readdirSync(folder)).toEqual([])
  cancels.cancel(7)
  expect(cancels.waiting()).toEqual({ place: -1, count: 0, linked: 0 })
  cancels.close()
  rmSync(folder, { recursive: true })
})

test("no place for it is an error that says where and why", () => {
  expect(existsSync(missing)).toBe(false)
  const open = (): Cancels => new Cancels([missing])
  expect(open).toThrow(EngineStartError)
  expect(open).toThrow(`no such file or directory, open '${missing}`)
})
