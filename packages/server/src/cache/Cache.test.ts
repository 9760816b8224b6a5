import { type Pointer, ptr, toArrayBuffer } from "bun:ffi"
import { afterEach, beforeEach, describe, expect, test } from "bun:test"
import {
  chmodSync,
  closeSync,
  mkdirSync,
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
import { io } from "@ggml-rpc/native/bindings"
import { Fnv1a64 } from "@ggml-rpc/protocol"
import { Cache, type CacheOptions } from "./Cache.ts"
import { listEntries, maySealFiles, partsFolder } from "./CacheFolder.ts"
import { VerifiedFiles } from "./VerifiedFiles.ts"

let folder: string
let list: number
let cache: Cache
let problems: string[]

const open = (options: Partial<CacheOptions>): Cache =>
  new Cache({
    folder,
    partsFolder: partsFolder(folder),
    isSealed: maySealFiles(folder),
    verified: new VerifiedFiles(list),
    limitBytes: 2 ** 40,
    minBytes: 1,
    onProblem: (reason) => void problems.push(reason),
    ...options,
  })

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-cache-"))
  list = openSync(join(folder, ".list"), "ax+")
  problems = []
  cache = open({})
})

afterEach(() => rmSync(folder, { recursive: true }))

const files = (): string[] =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name !== ".list")
    .map((entry) => entry.name)

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
  const isGood = file.fillPieces(
    pieceBytes,
    (offset) => start + offset,
    (offset, size) => {
      expect(offset).toBe(stored)
      stored += size
    },
  )
  if (isGood) file.confirm()
  file.close()
  return isGood ? target.subarray(0, stored) : undefined
}

test("a file that changed after it was served is not taken for verified", () => {
  cache.store(ptr(data) as number, data.length)
  const path = join(folder, name)
  const reader = open({ verified: new VerifiedFiles(openSync(join(folder, ".other"), "ax+")) })
  const file = reader.open(hash.digestHi(), hash.digestLo())!
  const target = new Uint8Array(data.length)
  expect(file.fill(ptr(target) as number, false)).toBe(true)
  writeFileSync(
    path,
    data.map((byte) => byte ^ 1),
  )
  utimesSync(path, 1, 1)
  file.confirm()
  file.close()
  expect(load(reader)).toBeUndefined()
  rmSync(join(folder, ".other"))
})

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
  const writer = cache.writer(data.length)
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
  const second = open({})
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
  const nowhere = open({ folder: "/dev/null/cache" })
  nowhere.store(ptr(data) as number, data.length)
  expect(load(nowhere)).toBeUndefined()
  expect(problems).toEqual([expect.stringContaining("ENOTDIR")])
})

test.each(["folder", "fifo"])(
  "a %s under a file's name is no file, and keeps nobody waiting",
  (kind) => {
    const path = join(folder, name)
    if (kind === "folder") mkdirSync(path)
    else expect(Bun.spawnSync(["mkfifo", path]).success).toBe(true)
    expect(load()).toBeUndefined()
    cache.store(ptr(data) as number, data.length)
    if (kind === "folder") expect(problems).toHaveLength(1)
    else expect(load()).toEqual(data)
    expect(readdirSync(folder).filter((file) => file.endsWith(".part"))).toEqual([])
  },
)

describe("the limit", () => {
  /** Data of this index, by whoever opens the cache now. */
  const storeBy = (user: Cache, index: number): string => {
    const bytes = data.map((byte) => byte ^ index)
    user.store(ptr(bytes) as number, bytes.length)
    return new Fnv1a64().update(bytes).digestHex()
  }
  const limitBytes = 3.5 * data.length
  const age = (file: string, seconds: number): void => {
    const time = Date.now() / 1000 - seconds
    utimesSync(join(folder, file), time, time)
  }

  test("makes the least recently used files go, whether they were stored or served", () => {
    const names = [1, 2, 3].map((index) => storeBy(open({ limitBytes }), index))
    for (const [index, file] of names.entries()) age(file, 3600 - index)
    // The oldest is served, and so the newest.
    const reader = open({ limitBytes })
    const file = reader.open(
      Number.parseInt(names[0]!.slice(0, 8), 16),
      Number.parseInt(names[0]!.slice(8), 16),
    )!
    const target = new Uint8Array(data.length)
    expect(file.fill(ptr(target) as number, false)).toBe(true)
    expect(
      Buffer.compare(
        target,
        data.map((byte) => byte ^ 1),
      ),
    ).toBe(0)
    file.confirm()
    file.close()
    const fourth = storeBy(open({ limitBytes }), 4)
    expect(
      listEntries(folder)
        .map((entry) => entry.name)
        .sort(),
    ).toEqual([names[0]!, names[2]!, fourth].sort())
    expect(problems).toEqual([])
  })

  test("does not make a client's weights go for others of its own", () => {
    const user = open({ limitBytes })
    const names = [1, 2, 3].map((index) => storeBy(user, index))
    storeBy(user, 4)
    expect(files().sort()).toEqual(names.sort())
    expect(problems).toEqual([
      "a client's weights are more than the limit of 342 KiB (--cache-size)",
    ])
  })

  test("is for a single file, too", () => {
    storeBy(open({ limitBytes: 1000 }), 1)
    expect(files()).toEqual([])
    expect(problems).toEqual(["a weight of 97.7 KiB is above the limit of 0.98 KiB (--cache-size)"])
  })
})

test("a folder that others may write into is not sealed, and what is stored in one is this user's alone", () => {
  const before = process.umask(0o002)
  try {
    cache.store(ptr(data) as number, data.length)
    expect(statSync(join(folder, name)).mode & 0o777).toBe(0o644)
  } finally {
    process.umask(before)
  }
  const canBe = partsFolder(folder) !== folder
  expect(maySealFiles(folder)).toBe(canBe)
  chmodSync(folder, 0o775)
  expect(maySealFiles(folder)).toBe(false)
})

/** Whether this system maps a file of the temporary folder. */
const canMapFiles = (): boolean => {
  const place = mkdtempSync(join(tmpdir(), "ggml-rpc-map-"))
  const start = io().io_reserve_memory(4096)
  try {
    writeFileSync(join(place, "file"), new Uint8Array(4096))
    if (!maySealFiles(place)) return false
    const file = openSync(join(place, "file"), "r")
    io().io_map_file(file, start as Pointer, 0, 4096)
    closeSync(file)
    return readFileSync("/proc/self/maps", "utf8").includes(place)
  } finally {
    io().io_release_memory(start as Pointer, 4096)
    rmSync(place, { recursive: true })
  }
}

describe("memory that begins with a page", () => {
  const sizeBytes = 5 * 4096
  let start: number
  /** Four whole pages, and part of one. */
  const pages = data.subarray(0, 4 * 4096 + 100)
  const pagesHash = new Fnv1a64().update(pages)

  beforeEach(() => {
    cache.store(ptr(pages) as number, pages.length)
    start = Number(io().io_reserve_memory(sizeBytes))
  })

  afterEach(() => void io().io_release_memory(start as Pointer, sizeBytes))

  const bytes = (): Uint8Array => new Uint8Array(toArrayBuffer(start as Pointer, 0, sizeBytes))

  /** Fills the memory, from a byte on, with the pages' file; whether it was mapped. */
  const fill = ({ at = 0, isOwn = true } = {}): boolean => {
    const memory = bytes()
    memory.fill(7)
    const file = cache.open(pagesHash.digestHi(), pagesHash.digestLo())!
    expect(file.fill(start + at, isOwn)).toBe(true)
    file.close()
    expect(Buffer.compare(memory.subarray(at, at + pages.length), pages)).toBe(0)
    expect(memory.subarray(at + pages.length).every((byte) => byte === 7)).toBe(true)
    return readFileSync("/proc/self/maps", "utf8").includes(pagesHash.digestHex())
  }

  /** Needs Linux 6.2, and a file system that is known to be this machine's. */
  const whereItCanBe = test.skipIf(!canMapFiles())

  whereItCanBe("is the file itself, until it is written", () => {
    expect(fill()).toBe(true)
    bytes().fill(3)
    expect(Buffer.compare(readFileSync(join(folder, pagesHash.digestHex())), pages)).toBe(0)
  })

  whereItCanBe("outlives the file", () => {
    expect(fill()).toBe(true)
    rmSync(join(folder, pagesHash.digestHex()))
    expect(Buffer.compare(bytes().subarray(0, pages.length), pages)).toBe(0)
  })

  whereItCanBe("is a copy while somebody may write into the file", () => {
    const path = join(folder, pagesHash.digestHex())
    const writer = openSync(path, "r+")
    expect(fill()).toBe(false)
    closeSync(writer)
    chmodSync(path, 0o664)
    expect(fill()).toBe(false)
    chmodSync(path, 0o644)
    expect(fill()).toBe(true)
  })

  whereItCanBe("is a copy where the memory is not this process's own, or begins elsewhere", () => {
    expect(fill({ isOwn: false })).toBe(false)
    expect(fill({ at: 64 })).toBe(false)
  })

  whereItCanBe("is a copy where session processes could write into the folder", () => {
    cache = open({ isSealed: false })
    expect(fill()).toBe(false)
  })
})
