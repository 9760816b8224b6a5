import { afterEach, beforeEach, expect, test } from "bun:test"
import {
  chmodSync,
  closeSync,
  fstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { openSharedLedger, standardLedgerFolder } from "./sharedLedger.ts"

let parent: string
let folder: string

beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), "ggml-rpc-shared-"))
  folder = join(parent, "own")
})

afterEach(() => rmSync(parent, { recursive: true }))

test("two servers get one file, for their user alone", () => {
  const [first, second] = [openSharedLedger(folder), openSharedLedger(folder)]
  expect(fstatSync(first).ino).toBe(fstatSync(second).ino)
  expect(fstatSync(first).mode & 0o777).toBe(0o600)
  expect(readdirSync(folder)).toHaveLength(1)
  closeSync(first)
  closeSync(second)
})

test("the standard folder is one of this user's", () => {
  expect(standardLedgerFolder()).toEndWith(`ggml-rpc-${process.getuid!()}`)
})

test("a folder that others may use is not", () => {
  mkdirSync(folder)
  chmodSync(folder, 0o770)
  expect(() => openSharedLedger(folder)).toThrow(`others may use ${folder}`)
})

test("what is no folder is not, nor a link to one", () => {
  writeFileSync(folder, "")
  expect(() => openSharedLedger(folder)).toThrow("is no folder")
  const link = join(parent, "link")
  mkdirSync(join(parent, "real"), { mode: 0o700 })
  symlinkSync(join(parent, "real"), link)
  expect(() => openSharedLedger(link)).toThrow("is no folder")
})

test("a link in place of the file is not followed", () => {
  closeSync(openSharedLedger(folder))
  const [name] = readdirSync(folder)
  rmSync(join(folder, name!))
  symlinkSync(join(parent, "victim"), join(folder, name!))
  expect(() => openSharedLedger(folder)).toThrow("ELOOP")
  expect(readdirSync(parent)).toEqual(["own"])
})
