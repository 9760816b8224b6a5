import { afterEach, beforeEach, expect, test } from "bun:test"
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { findModels } from "./ModelIndexer.ts"

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-models-"))
})

afterEach(() => rmSync(folder, { recursive: true }))

test("models are found at any depth, by links as well, and split ones by their first file", () => {
  const deep = join(folder, "models--a--b", "snapshots", "1")
  mkdirSync(deep, { recursive: true })
  const files = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "b.gguf", "b.gguf.part", "c.txt"]
  for (const name of files) writeFileSync(join(deep, name), "")
  symlinkSync("b.gguf", join(deep, "link.gguf"))
  mkdirSync(join(folder, "folder.gguf"))
  symlinkSync(folder, join(deep, "around"))
  const found = ["a-00001-of-00002.gguf", "b.gguf", "link.gguf"].map((name) => join(deep, name))
  expect(findModels(folder).toSorted()).toEqual(found)
  expect(findModels(join(folder, "nothing"))).toEqual([])
})
