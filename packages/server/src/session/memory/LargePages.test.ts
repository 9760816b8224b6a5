import { type Pointer, toArrayBuffer } from "bun:ffi"
import { afterEach, beforeEach, expect, test } from "bun:test"
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { io } from "@ggml-rpc/native/bindings"
import { Buffers, type SessionBuffer } from "./buffers.ts"
import { type Client, LargePages, largePageBytes } from "./LargePages.ts"

const pageBytes = largePageBytes()

/** As the server says of a buffer, which the large pages are inside of. */
const SIZE_BYTES = 20 * 2 ** 20

let start: number
let memory: Uint8Array
let buffers: Buffers
let buffer: SessionBuffer

const allocate = (): SessionBuffer =>
  buffers.add(
    {
      device: 0,
      native: 1,
      sizeBytes: SIZE_BYTES,
      nativeBase: start,
      isHost: true,
      isOwn: true,
      tailBytes: 0,
    },
    4096,
  )

beforeEach(() => {
  start = Number(io().io_reserve_memory(SIZE_BYTES))
  memory = new Uint8Array(toArrayBuffer(start as Pointer, 0, SIZE_BYTES))
  buffers = new Buffers()
  buffer = allocate()
})

afterEach(() => void io().io_release_memory(start as Pointer, SIZE_BYTES))

/** A number that says where in the memory it stands, every 4 KiB. */
const mark = (): void => {
  const words = new Uint32Array(memory.buffer)
  for (let at = 0; at < words.length; at += 1024) words[at] = at + 1
}

const isMarked = (): boolean =>
  new Uint32Array(memory.buffer).every((word, at) => word === (at % 1024 === 0 ? at + 1 : 0))

/** KiB of the memory that are in large pages. */
const largeKib = (): number => {
  let sum = 0
  let isInside = false
  for (const line of readFileSync("/proc/self/smaps", "utf8").split("\n")) {
    const [, from, to] = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line) ?? []
    if (from !== undefined) {
      const [low, high] = [Number.parseInt(from, 16), Number.parseInt(to!, 16)]
      isInside = low < start + SIZE_BYTES && high > start
    } else if (isInside && line.startsWith("AnonHugePages:")) {
      sum += Number(/\d+/.exec(line)![0])
    }
  }
  return sum
}

/** Who has nothing to ask. */
const silent: Client = { flush: () => {}, isSilent: () => true }

const moveAll = (pages: LargePages): void => {
  pages.look(buffers)
  expect(pages.hasWork).toBe(true)
  pages.work(silent)
  expect(pages.hasWork).toBe(false)
}

const whereThereAre = test.skipIf(pageBytes === 0)

whereThereAre("what was written is moved, and what is in it stays", () => {
  mark()
  const pages = new LargePages(pageBytes)
  expect(pages.hasWork).toBe(false)
  moveAll(pages)
  expect(isMarked()).toBe(true)
  expect(largeKib()).toBeGreaterThan(0)
  // Nothing new is there.
  pages.look(buffers)
  expect(pages.hasWork).toBe(false)
})

whereThereAre("a file that is mapped is left for memory of its own", () => {
  const folder = mkdtempSync(join(tmpdir(), "ggml-rpc-pages-"))
  mark()
  const path = join(folder, "weights")
  writeFileSync(path, memory)
  memory.fill(9)
  const file = openSync(path, "r")
  expect(io().io_map_file(file, start as Pointer, 0, SIZE_BYTES)).toBe(SIZE_BYTES)
  closeSync(file)
  memory.fill(memory[0]!, 0, 1)
  moveAll(new LargePages(pageBytes))
  expect(isMarked()).toBe(true)
  expect(largeKib()).toBeGreaterThan(0)
  // At most what is not a whole large page at either end is still the file.
  rmSync(folder, { recursive: true })
  expect(isMarked()).toBe(true)
})

whereThereAre("what was never written takes no memory", () => {
  const before = process.memoryUsage.rss()
  moveAll(new LargePages(pageBytes))
  expect(largeKib()).toBe(0)
  expect(process.memoryUsage.rss() - before).toBeLessThan(SIZE_BYTES / 2)
})

test("buffers that are freed, small or not this process's own are left alone", () => {
  const pages = new LargePages(2 ** 21)
  pages.look(buffers)
  pages.drop(buffer)
  expect(pages.hasWork).toBe(false)
  const other = { device: 0, native: 1, nativeBase: start, tailBytes: 0, isHost: true }
  buffers.add({ ...other, sizeBytes: 2 ** 20, isOwn: true }, 4096)
  buffers.add({ ...other, sizeBytes: SIZE_BYTES, isOwn: false }, 4096)
  pages.look(buffers)
  expect(pages.hasWork).toBe(false)
})

test("where the system has no large page it is asked again later, each time twice as late", () => {
  let nowMs = 0
  let asked = 0
  let answer = -12
  const enlarge = () => {
    asked++
    return answer
  }
  const pages = new LargePages(2 ** 21, () => nowMs, enlarge)
  pages.look(buffers)
  const passTime = (ms: number): void => {
    nowMs += ms
    if (pages.hasWork) pages.work(silent)
  }
  passTime(0)
  for (const ms of [4_999, 1, 9_999, 1, 19_999, 1]) passTime(ms)
  expect(asked).toBe(4)
  // There are some again.
  answer = 1
  passTime(40_000)
  expect(asked).toBeGreaterThan(10)
  expect(pages.hasWork).toBe(false)
})

test("another client's buffers are looked at again", () => {
  const pages = new LargePages(2 ** 21)
  pages.look(buffers)
  pages.clear()
  expect(pages.hasWork).toBe(false)
  buffers.clear()
  allocate()
  pages.look(buffers)
  expect(pages.hasWork).toBe(true)
})

test("without large pages there is nothing to do", () => {
  const pages = new LargePages(0)
  pages.look(buffers)
  expect(pages.hasWork).toBe(false)
})

whereThereAre("a client that always asks for something waits for a small part of its time", () => {
  let nowMs = 0
  const pages = new LargePages(pageBytes, () => nowMs)
  mark()
  pages.look(buffers)
  const patience: number[] = []
  let flushed = 0
  const busy: Client = {
    flush: () => void flushed++,
    isSilent: (timeoutMs) => {
      patience.push(timeoutMs)
      return false
    },
  }
  // There is no time yet of which it could be a part.
  pages.work(busy)
  expect([flushed, patience, largeKib()]).toEqual([1, [2], 0])
  // A page takes no time by this clock.
  nowMs = 1
  pages.work(busy)
  expect([flushed, patience, pages.hasWork]).toEqual([2, [2], false])
  expect(isMarked()).toBe(true)
})

whereThereAre("a client that stays gives more of its time than one that came just now", () => {
  // Each look at the clock takes 15 ms, and a page therefore, too.
  let nowMs = 0
  const pages = new LargePages(pageBytes, () => (nowMs += 15))
  mark()
  pages.look(buffers)
  const busy: Client = { flush: () => {}, isSilent: () => false }
  const workUntil = (endMs: number): void => {
    while (nowMs < endMs && pages.hasWork) pages.work(busy)
  }
  workUntil(1000)
  // A twentieth of a second, and the page that went beyond.
  expect(largeKib()).toBeLessThanOrEqual((4 * pageBytes) / 1024)
  expect(largeKib()).toBeGreaterThan(0)
  workUntil(2500)
  // A twentieth of all that time would be for eight of the nine.
  expect(pages.hasWork).toBe(false)
})

test("a client waits no longer after a pause, and little after graphs that ran for long", () => {
  let nowMs = 0
  let asked = 0
  let answer = -12
  const pageMs = 5
  const enlarge = () => {
    nowMs += pageMs
    asked++
    return answer
  }
  const pages = new LargePages(2 ** 16, () => nowMs, enlarge)
  const busy: Client = { flush: () => {}, isSilent: () => false }
  pages.look(buffers)
  pages.work(silent)
  expect(asked).toBe(1)
  answer = 1
  nowMs += 5000
  expect(pages.hasWork).toBe(true)
  pages.work(busy)
  expect(asked).toBe(1)
  const beforeMs = nowMs + 60_000
  nowMs = beforeMs
  for (let request = 0; request < 50; request++) {
    nowMs++
    pages.work(busy)
  }
  // A tenth of a second that was saved up, and its part of the time since, with the page that goes beyond.
  const movedMs = (asked - 1) * pageMs
  expect(movedMs).toBeGreaterThanOrEqual(100)
  expect(movedMs).toBeLessThanOrEqual(100 + 0.2 * (nowMs - beforeMs) + pageMs)
})

whereThereAre(
  "who asks after a while of silence is heard after the page that is being moved",
  () => {
    const pages = new LargePages(pageBytes, () => 0)
    mark()
    pages.look(buffers)
    const patience: number[] = []
    pages.work({
      flush: () => {},
      isSilent: (timeoutMs) => {
        patience.push(timeoutMs)
        return patience.length < 3
      },
    })
    expect(patience).toEqual([2, 0, 0])
    expect(pages.hasWork).toBe(true)
  },
)

whereThereAre("what was not there the first time is tried once more behind the others", () => {
  const pages = new LargePages(pageBytes, () => 0)
  pages.look(buffers)
  const lasting = SIZE_BYTES / pageBytes
  let asked = 0
  pages.work({ flush: () => {}, isSilent: () => ++asked > 0 && asked < lasting })
  mark()
  pages.work(silent)
  expect(pages.hasWork).toBe(false)
  expect(largeKib()).toBeGreaterThanOrEqual(((lasting - 2) * pageBytes) / 1024)
})
