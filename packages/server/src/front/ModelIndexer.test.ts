import { afterEach, beforeEach, expect, spyOn, test } from "bun:test"
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { WeightHashes } from "@ggml-rpc/native/bindings"
import { findModels, ModelIndexer } from "./ModelIndexer.ts"

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-models-"))
})

afterEach(() => rmSync(folder, { recursive: true }))

test("models are found at any depth, by links as well, and split ones by their first file", async () => {
  const deep = join(folder, "models--a--b", "snapshots", "1")
  mkdirSync(deep, { recursive: true })
  const files = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "b.gguf", "b.gguf.part", "c.txt"]
  for (const name of files) writeFileSync(join(deep, name), "")
  symlinkSync("b.gguf", join(deep, "link.gguf"))
  mkdirSync(join(folder, "folder.gguf"))
  symlinkSync(folder, join(deep, "around"))
  const found = ["a-00001-of-00002.gguf", "b.gguf", "link.gguf"].map((name) => join(deep, name))
  expect((await findModels([folder])).toSorted()).toEqual(found)
  expect(await findModels([join(folder, "nothing")])).toEqual([])
  expect(await findModels([deep, folder], 2)).toHaveLength(2)
})

test("a model that lacks a file is looked at again when it has changed, and one that was just written soon", () => {
  const indexFolder = join(folder, "index")
  const path = join(realpathSync(folder), "m-00001-of-00002.gguf")
  writeFileSync(path, "one")
  const indexer = new ModelIndexer({ folders: [realpathSync(folder)], indexFolder }, () => {})
  const opened = spyOn(WeightHashes, "open")
  const begin = (aheadMs: number) => {
    const now = Date.now() + aheadMs
    const clock = spyOn(Date, "now").mockImplementation(() => now)
    opened.mockClear()
    indexer.begin(path)
    clock.mockRestore()
    return { looks: opened.mock.calls.length, isUnsettled: indexer.takeUnsettled() }
  }
  expect(begin(0)).toEqual({ looks: 1, isUnsettled: true })
  expect(begin(10_000)).toEqual({ looks: 1, isUnsettled: false })
  expect(begin(10_000)).toEqual({ looks: 0, isUnsettled: false })
  writeFileSync(join(folder, "m-00002-of-00002.gguf"), "two")
  expect(begin(10_000)).toEqual({ looks: 1, isUnsettled: false })
  chmodSync(path, 0o600)
  expect(begin(0)).toEqual({ looks: 1, isUnsettled: true })
  opened.mockRestore()
})
