import { ptr } from "bun:ffi"
import { afterEach, beforeEach, expect, test } from "bun:test"
import {
  appendFileSync,
  chmodSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type Address, cString, io } from "../io.ts"
import { hashOf } from "./hash.ts"
import { WeightFile } from "./WeightFile.ts"
import { type WeightHash, WeightHashes } from "./WeightHashes.ts"

let root: string
let model: string
let folder: string

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "ggml-rpc-hashes-"))
  model = join(root, "model.gguf")
  folder = join(root, "cache", "weights")
  writeModel("weights")
})

afterEach(() => rmSync(root, { recursive: true }))

/** As if it had been long ago: one that was written a moment ago may change again. */
const writeModel = (text: string): void => {
  writeFileSync(model, text)
  now = Date.now() + 10_000
}

/** What `Date.now` says while something is opened. */
let now = 0

const open = (...paths: readonly string[]): WeightHashes => {
  const real = Date.now
  Date.now = () => now
  try {
    return WeightHashes.open(paths.length === 0 ? [model] : paths, folder)
  } finally {
    Date.now = real
  }
}

const hash = (low: number): WeightHash => ({
  ...{ sizeBytes: 4096, part: 0, offsetBytes: 32, high: 0xfedcba98, low },
})

const fileOf = (): string => join(folder, readdirSync(folder)[0]!)

test("slices are known by their place and size, apart from their weight", () => {
  const slice = { fromBytes: 2, rowCount: 2, strideBytes: 3, wholeBytes: 6 }
  const places = [
    { part: 0, offsetBytes: 1, sizeBytes: 6 },
    { part: 0, offsetBytes: 3, sizeBytes: 2, slice },
    { part: 0, offsetBytes: 1, sizeBytes: 4, slice: { ...slice, fromBytes: 0 } },
  ]
  const hashes = open()
  const file = WeightFile.open(hashes)!
  const found = file.hash(places)!
  // Of "weights": whole, one byte of three, two bytes of three.
  for (const [index, text] of ["eights", "gs", "eiht"].entries()) {
    const [low, high] = hashOf(ptr(new TextEncoder().encode(text)) as Address, text.length)
    expect([found[index]!.low, found[index]!.high]).toEqual([low, high])
  }
  hashes.add(found.map((hash) => ["w", hash]))
  expect(file.hashBeside([["v", places[1]!]], hashes)).toBe(true)
  while (io().io_is_hashing() !== 0) Bun.sleepSync(1)
  const later = open()
  expect(later.all().size).toBe(4)
  expect(later.find("w", 6)).toEqual({ ...found[0]!, slice: undefined })
  expect(later.find("w", 2, slice)).toEqual(found[1])
  expect(later.find("w", 4, { ...slice, fromBytes: 0 })).toEqual(found[2])
  expect(later.find("v", 2, slice)).toEqual(found[1])
  expect(later.find("w", 4, slice)).toBeUndefined()
  expect(later.find("w", 2, { ...slice, strideBytes: 4 })).toBeUndefined()
  expect(later.find("w", 2, { ...slice, wholeBytes: 12 })).toBeUndefined()
})

test("what was added is found by the next process, by name and size", () => {
  expect(open().all().size).toBe(0)
  open().add([
    ["blk.0.weight", hash(1)],
    ["a name with blanks", hash(0)],
  ])
  const later = open()
  expect(later.find("blk.0.weight", 4096)).toEqual(hash(1))
  expect(later.find("a name with blanks", 4096)).toEqual(hash(0))
  expect(later.find("blk.0.weight", 4095)).toBeUndefined()
  expect(later.find("blk.1.weight", 4096)).toBeUndefined()
})

test.each([
  ["has other bytes", () => writeModel("weightz")],
  ["has another size", () => writeModel("weight")],
  [
    "was put in its place",
    () => {
      writeFileSync(join(root, "other"), "weights")
      renameSync(join(root, "other"), model)
    },
  ],
  ["was touched", () => utimesSync(model, 1, 1)],
] as const)("a file that %s is another model", async (_, change) => {
  open().add([["w", hash(1)]])
  // Past the precision of the file's times.
  await Bun.sleep(20)
  change()
  expect(open().all().size).toBe(0)
})

test("of a split model each file counts", async () => {
  const parts = [1, 2].map((part) => join(root, `m-0000${part}-of-00002.gguf`))
  for (const part of parts) writeFileSync(part, "part")
  open(...parts).add([["w", hash(1)]])
  expect(open(...parts).all().size).toBe(1)
  await Bun.sleep(20)
  writeFileSync(parts[1]!, "trap")
  expect(open(...parts).all().size).toBe(0)
  rmSync(parts[1]!)
  open(...parts).add([["w", hash(1)]])
  expect(open(...parts).all().size).toBe(0)
})

test("a file that was just written is not believed to stay as it is", () => {
  now = Date.now()
  open().add([["w", hash(1)]])
  expect(open().all().size).toBe(0)
})

test("a line with any other character is not read, and the others are", () => {
  open().add([
    ["first", hash(1)],
    ["second", hash(2)],
  ])
  const whole = readFileSync(fileOf(), "utf8")
  const start = whole.indexOf("\n") + 1
  const end = whole.indexOf("\n", start)
  for (let at = start; at < end; at += 3) {
    const other = whole[at] === "0" ? "1" : "0"
    writeFileSync(fileOf(), whole.slice(0, at) + other + whole.slice(at + 1))
    expect([...open().all().keys()]).toEqual(["second"])
  }
  writeFileSync(fileOf(), whole.slice(0, -5))
  expect([...open().all().keys()]).toEqual(["first"])
})

test("a file that is none of ours is not read", () => {
  open().add([["w", hash(1)]])
  const whole = readFileSync(fileOf(), "utf8")
  const large = 33 * 1024 * 1024
  const texts = [`x${whole}`, "", "\n\n", "\0".repeat(1000), "x".repeat(large / 2)]
  for (const text of [...texts, whole.padEnd(large, "\n")]) {
    writeFileSync(fileOf(), text)
    const hashes = open()
    expect(hashes.all().size).toBe(0)
    // And does not stay for ever.
    hashes.add([["w", hash(1)]])
    expect(open().find("w", 4096)).toEqual(hash(1))
  }
})

test("a file that grew too large keeps whole weights and the newest slices", () => {
  const sliceHash = (index: number): WeightHash => {
    const slice = { fromBytes: index, rowCount: 1, strideBytes: 0, wholeBytes: 8192 }
    return { ...hash(index), slice }
  }
  const name = "w".repeat(1000)
  const count = 20_000
  const hashes = open()
  hashes.add([["first", hash(1)]])
  hashes.add(Array.from({ length: count }, (_, index) => [name, sliceHash(index)] as const))
  hashes.add([["last", hash(2)]])
  const grown = statSync(fileOf()).size
  expect(grown).toBeGreaterThan(8 * 1024 * 1024)
  const find = (from: WeightHashes, index: number) =>
    from.find(name, 4096, sliceHash(index).slice)?.low
  // Read by one process, and then by the next.
  for (let round = 0; round < 2; round++) {
    const later = open()
    expect(later.find("first", 4096)).toEqual(hash(1))
    expect(later.find("last", 4096)).toEqual(hash(2))
    expect(find(later, count - 1)).toBe(count - 1)
    const { size } = later.all()
    expect(find(later, count - (size - 2))).toBe(count - (size - 2))
    expect(find(later, count - (size - 2) - 1)).toBeUndefined()
    expect(readdirSync(folder)).toHaveLength(1)
    const left = statSync(fileOf()).size
    expect(left).toBeLessThanOrEqual(4 * 1024 * 1024 + 1000)
    expect(left).toBeGreaterThan(3 * 1024 * 1024)
  }
  // What comes next is appended as ever.
  open().add([["next", hash(3)]])
  expect(open().find("next", 4096)).toEqual(hash(3))
})

test("one that cannot be made smaller is read all the same", () => {
  const name = "w".repeat(1000)
  open().add(Array.from({ length: 20_000 }, (_, index) => [`${name}${index}`, hash(index)]))
  const grown = statSync(fileOf()).size
  mkdirSync(`${fileOf()}.${process.pid}`)
  expect(open().find(`${name}19999`, 4096)).toEqual(hash(19_999))
  expect(
    statSync(join(folder, readdirSync(folder).find((file) => file.endsWith(".hashes"))!)).size,
  ).toBe(grown)
})

test("two processes may write at once", () => {
  const [first, second] = [open(), open()]
  first.add([["a", hash(1)]])
  second.add([["b", hash(2)]])
  first.add([["c", hash(3)]])
  expect([...open().all().keys()]).toEqual(["a", "b", "c"])
  // What one of them began and the other finished.
  appendFileSync(fileOf(), "0000")
  open().add([["d", hash(4)]])
  expect([...open().all().keys()]).toEqual(["a", "b", "c"])
  open().add([["d", hash(4)]])
  expect(open().find("d", 4096)).toEqual(hash(4))
})

test("where nothing can be written or read nothing is known, and nobody minds", () => {
  writeFileSync(join(root, "cache"), "")
  open().add([["w", hash(1)]])
  expect(open().all().size).toBe(0)
  expect(open(join(root, "nothing.gguf")).all().size).toBe(0)
  rmSync(join(root, "cache"))
  mkdirSync(folder, { recursive: true })
  chmodSync(folder, 0o500)
  open().add([["w", hash(1)]])
  chmodSync(folder, 0o700)
  WeightHashes.open([model], undefined).add([["w", hash(1)]])
})

test("forgotten is forgotten for all", () => {
  const hashes = open()
  hashes.add([["w", hash(1)]])
  hashes.forget()
  expect(hashes.all().size).toBe(0)
  expect(open().all().size).toBe(0)
})

test("the least recently used files go when there are many", () => {
  open().add([["w", hash(1)]])
  const path = fileOf()
  utimesSync(path, 1, 1)
  for (let index = 0; index < 64; index++) {
    writeFileSync(join(folder, `${index}.hashes`), "")
    utimesSync(join(folder, `${index}.hashes`), 100 + index, 100 + index)
  }
  writeFileSync(join(folder, "something else"), "")
  const another = join(root, "another.gguf")
  writeFileSync(another, "")
  open(another).add([["w", hash(1)]])
  const left = readdirSync(folder)
  expect(left).toHaveLength(65)
  expect(left).toContain("something else")
  expect(left).toContain("63.hashes")
  expect(left).not.toContain("0.hashes")
  expect(open().all().size).toBe(0)
})

test("a name that would end its line, or hide that, is not remembered", () => {
  const line = readLineOf("forged")
  const names = [`x\n${line}\ny`, "a\rb", "a\u2028b", "a\u2029b", "a\0b", "a\u007fb", ""]
  open().add([["w", hash(1)], ...names.map((name) => [name, hash(2)] as const)])
  expect([...open().all().keys()]).toEqual(["w"])
  writeFileSync(model, "weights")
  now = Date.now() + 10_000
  const hashes = open()
  const places = names.map((name) => [name, { part: 0, offsetBytes: 0, sizeBytes: 4 }] as const)
  const file = WeightFile.open(hashes)!
  expect(file.hashBeside(places, hashes)).toBe(true)
  expect(hashes.all().size).toBe(0)
})

/** A whole line about a weight. */
const readLineOf = (name: string): string => {
  open().add([[name, hash(3)]])
  const [, line] = readFileSync(fileOf(), "utf8").split("\n")
  rmSync(fileOf())
  return line!
}

test("another file under the model's name is not hashed for it", () => {
  const other = join(root, "other.gguf")
  const link = join(root, "link.gguf")
  writeFileSync(other, "others!")
  symlinkSync(model, link)
  const hashes = open(link)
  const opened = WeightFile.open(hashes)
  expect(opened).toBeDefined()
  opened?.close()
  rmSync(link)
  symlinkSync(other, link)
  expect(WeightFile.open(hashes)).toBeUndefined()
})

test("hashing beside writes a line for each weight, none for a name that would end it, and can be told to stop", async () => {
  const path = join(root, "lines")
  const output = openSync(path, "a")
  const labels = ["0 0 first", "0 0 a\nb", "0 0 last"]
  const file = openSync(model, "r")
  const begun = io().io_hash_beside(
    ...([3, Int32Array.of(file, file, file)] as const),
    ...([
      Float64Array.from([0, 1, 2].flatMap(() => [0, 4, 4, 0])),
      cString(labels.join("\0")),
    ] as const),
    ...([output, 1, Int32Array.of(file)] as const),
  )
  expect(begun).toBe(1)
  while (io().io_is_hashing() !== 0) await Bun.sleep(5)
  const names = readFileSync(path, "utf8")
    .split("\n")
    .map((line) => line.split(" ")[4])
  expect(names.toSorted()).toEqual(["first", "last", undefined])
  io().io_stop_hashing()
  expect(io().io_is_hashing()).toBe(0)
})
