import { expect, test } from "bun:test"
import { writeU64 } from "../graph/tensorWords.ts"
import { Buffers, MAX_BUFFERS } from "./buffers.ts"

const add = (buffers: Buffers, sizeBytes: number, alignmentBytes = 32) =>
  buffers.add(
    {
      device: 0,
      native: 0x7000,
      sizeBytes,
      nativeBase: 0x8000,
      isHost: true,
      isOwn: true,
      tailBytes: 0,
    },
    alignmentBytes,
  )

const find = (buffers: Buffers, id: number) => {
  const words = new Uint32Array(2)
  writeU64(words, 0, id)
  return buffers.find(words, 0)
}

test("ranges are disjoint with room between, aligned, and never used again", () => {
  const buffers = new Buffers()
  let end = 0
  for (const [size, alignment] of [
    [1, 32],
    [10_000_000_000, 65536],
    [4096, 1],
    [5, 2 ** 21],
  ] as const) {
    const buffer = add(buffers, size, alignment)
    expect(buffer.base).toBeGreaterThan(end)
    expect(buffer.base % Math.max(alignment, 4096)).toBe(0)
    end = buffer.base + size
    buffers.remove(buffer)
  }
})

test("handles are found until they are removed", () => {
  const buffers = new Buffers()
  const first = add(buffers, 16)
  const second = add(buffers, 16)
  expect(find(buffers, first.id)).toBe(first)
  buffers.remove(first)
  expect(find(buffers, first.id)).toBeUndefined()
  expect(find(buffers, second.id)).toBe(second)
  for (const id of [0, second.base, 0x7000, 0x8000]) expect(find(buffers, id)).toBeUndefined()
  const tooLarge = new Uint32Array([second.id, 0x8000_0000])
  expect(buffers.find(tooLarge, 0)).toBeUndefined()
})

test("no real address shows", () => {
  const buffer = add(new Buffers(), 16)
  expect(buffer.base).not.toBe(0x8000)
  expect(buffer.id).not.toBe(0x7000)
})

test("says when the address space is used up", () => {
  const buffers = new Buffers()
  expect(buffers.hasRoom(2 ** 52, 32)).toBe(true)
  add(buffers, 2 ** 52)
  expect(buffers.hasRoom(2 ** 52, 32)).toBe(false)
  expect(buffers.hasRoom(2 ** 51, 32)).toBe(true)
  expect(buffers.hasRoom(2 ** 60, 32)).toBe(false)
})

test("counts what is in memory of this process", () => {
  const buffers = new Buffers()
  const first = add(buffers, 100)
  add(buffers, 20)
  buffers.add(
    {
      device: 1,
      native: 1,
      sizeBytes: 5000,
      nativeBase: 2,
      isHost: false,
      isOwn: false,
      tailBytes: 0,
    },
    32,
  )
  expect(buffers.hostBytes).toBe(120)
  buffers.remove(first)
  buffers.remove(first)
  expect(buffers.hostBytes).toBe(20)
})

test("has a limit to the number of buffers", () => {
  const buffers = new Buffers()
  let last = add(buffers, 0)
  while (buffers.hasRoom(0, 32)) last = add(buffers, 0)
  expect(last.id).toBe(MAX_BUFFERS)
  buffers.remove(last)
  expect(buffers.hasRoom(0, 32)).toBe(true)
})
