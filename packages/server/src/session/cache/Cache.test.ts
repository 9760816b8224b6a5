import { ptr } from "bun:ffi"
import { afterEach, beforeEach, describe, expect, test } from "bun:test"
import {
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Fnv1a64 } from "@ggml-rpc/protocol"
import { Cache } from "./Cache.ts"
import { VerifiedFiles } from "./VerifiedFiles.ts"

let folder: string
let list: number
let cache: Cache

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-cache-"))
  list = openSync(join(folder, ".list"), "ax+")
  cache = new Cache(folder, new VerifiedFiles(list))
})

afterEach(() => rmSync(folder, { recursive: true }))

const files = (): string[] => readdirSync(folder).filter((name) => name !== ".list")

const data = new Uint8Array(100_000).map((_, index) => index * 31)
const hash = new Fnv1a64().update(data)
const name = hash.digestHex()

/** What the cache gives for the hash, or undefined. */
const load = (from: Cache = cache, pieceBytes = 1 << 20): Uint8Array | undefined => {
  const file = from.open(hash.digestHi(), hash.digestLo())
  if (file === undefined) return undefined
  const target = new Uint8Array(Math.max(file.sizeBytes, 4096))
  const start = ptr(target) as number
  let stored = 0
  const isGood = file.read(
    pieceBytes,
    (offset) => start + offset,
    (offset, size) => {
      expect(offset).toBe(stored)
      stored += size
    },
  )
  file.close()
  return isGood ? target.subarray(0, stored) : undefined
}

test("the name is 16 hex digits of the hash, the content the bytes", () => {
  cache.store(ptr(data) as number, data.length)
  expect(files()).toEqual([name])
  expect(name).toMatch(/^[0-9a-f]{16}$/)
  expect(Buffer.compare(readFileSync(join(folder, name)), data)).toBe(0)
})

test.each([1000, 4096, 1 << 20])("what was stored is loaded, in pieces of %p", (pieceBytes) => {
  cache.store(ptr(data) as number, data.length)
  expect(load(cache, pieceBytes)).toEqual(data)
})

test("a writer stores pieces", () => {
  const writer = cache.writer()
  const start = ptr(data) as number
  writer.write(start, 60_000)
  expect(files().every((file) => file.endsWith(".part"))).toBe(true)
  writer.write(start + 60_000, 40_000)
  writer.finish()
  expect(files()).toEqual([name])
  expect(load()).toEqual(data)
})

describe("a file that another program wrote", () => {
  test("is served when its bytes hash to its name", () => {
    writeFileSync(join(folder, name), data)
    expect(load()).toEqual(data)
  })

  const damages: ReadonlyArray<readonly [string, Uint8Array]> = [
    ["is cut", data.subarray(0, 99_999)],
    ["is longer", Buffer.concat([data, new Uint8Array(1)])],
    ["has one other bit", data.map((byte, index) => (index === 77_777 ? byte ^ 1 : byte))],
    ["is empty", new Uint8Array(0)],
  ]
  test.each(damages)("is not served when it %s", (_, bytes) => {
    writeFileSync(join(folder, name), bytes)
    expect(load()).toBeUndefined()
    // And a good one takes its place.
    cache.store(ptr(data) as number, data.length)
    expect(load()).toEqual(data)
  })

  test("is not served when it is damaged after it was verified, even with its old time", () => {
    const path = join(folder, name)
    writeFileSync(path, data)
    expect(load()).toEqual(data)
    const { atime, mtime } = statSync(path)
    writeFileSync(
      path,
      data.map((byte, index) => (index === 5 ? byte ^ 1 : byte)),
    )
    utimesSync(path, atime, mtime)
    expect(load()).toBeUndefined()
  })
})

test("a verified file is known to every process with the list, and not hashed again", () => {
  writeFileSync(join(folder, name), data)
  expect(load()).toEqual(data)
  const known = readFileSync(join(folder, ".list"), "utf8")
  expect(known.startsWith(`${name} `)).toBe(true)
  expect(known.split("\n")).toHaveLength(2)
  // Were it hashed by the second, it would be listed twice.
  const second = new Cache(folder, new VerifiedFiles(list))
  expect(load(second)).toEqual(data)
  expect(readFileSync(join(folder, ".list"), "utf8")).toBe(known)
})

test("what is stored already is not written again", () => {
  cache.store(ptr(data) as number, data.length)
  const before = statSync(join(folder, name), { bigint: true })
  cache.store(ptr(data) as number, data.length)
  expect(statSync(join(folder, name), { bigint: true }).ino).toBe(before.ino)
})

test("a folder that cannot be written, or a file that cannot be read, is no cache", () => {
  const nowhere = new Cache("/dev/null/cache", new VerifiedFiles(list))
  nowhere.store(ptr(data) as number, data.length)
  expect(load(nowhere)).toBeUndefined()
})
