import { afterEach, beforeEach, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { type CarriedFile, UnpackError, unpack } from "./unpack.ts"

let cache = ""
beforeEach(() => {
  cache = join(mkdtempSync(join(tmpdir(), "ggml-rpc-unpack-")), "cache")
})
afterEach(() => rmSync(join(cache, ".."), { recursive: true }))

let reads = 0
const carried = (name: string, text: string, sum = text): CarriedFile => ({
  name,
  sha256: new Bun.CryptoHasher("sha256").update(sum).digest("hex"),
  sizeBytes: text.length,
  read: () => {
    reads++
    return Promise.resolve(new Uint8Array(gzipSync(text)))
  },
})
const files = [carried("bins/a.so", "first"), carried("shim/b.so", "second")]

test("files are written once, where every later call finds them", async () => {
  reads = 0
  const folder = await unpack(cache, files)
  expect(readFileSync(join(folder, "bins/a.so"), "utf8")).toBe("first")
  expect(readFileSync(join(folder, "shim/b.so"), "utf8")).toBe("second")
  expect(await unpack(cache, files)).toBe(folder)
  expect(reads).toBe(2)
  expect(readdirSync(cache).length).toBe(1)
})

test("a file that was cut short is written again", async () => {
  const folder = await unpack(cache, files)
  writeFileSync(join(folder, "bins/a.so"), "fir")
  expect(await unpack(cache, files)).toBe(folder)
  expect(readFileSync(join(folder, "bins/a.so"), "utf8")).toBe("first")
})

test("other contents get another folder, and the first one stays", async () => {
  const first = await unpack(cache, files)
  const second = await unpack(cache, [files[0]!, carried("shim/b.so", "newer!")])
  expect(second).not.toBe(first)
  expect(existsSync(first)).toBe(true)
})

test("several at once give one whole folder", async () => {
  const folders = await Promise.all([1, 2, 3, 4].map(() => unpack(cache, files)))
  expect(new Set(folders).size).toBe(1)
  expect(readdirSync(cache)).toEqual([folders[0]!.slice(cache.length + 1)])
})

test("another checksum than the built one is an error, and leaves nothing", async () => {
  const damaged = unpack(cache, [carried("bins/a.so", "first", "other")])
  expect(damaged).rejects.toThrow(UnpackError)
  await damaged.catch(() => {})
  expect(readdirSync(cache)).toEqual([])
})

test("a cache that cannot be written is an error that names it", async () => {
  writeFileSync(cache, "")
  expect(unpack(cache, files)).rejects.toThrow(`cannot be unpacked to ${cache}`)
})
