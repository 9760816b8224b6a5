import { expect, test } from "bun:test"
import { hostMemory } from "@ggml-rpc/native/bindings"
import { HostMemory } from "./HostMemory.ts"
import { noLedger } from "./MemoryLedger.ts"

const MIB = 1024 * 1024

test("what stays free for the rest of the machine is not offered", () => {
  const { freeBytes, totalBytes } = new HostMemory(noLedger).read()
  const now = hostMemory()
  expect(totalBytes).toBe(now.totalBytes)
  const reserve = Math.min(256 * MIB, totalBytes / 32)
  // Other programs take and give back in between.
  expect(Math.abs(now.freeBytes - reserve - freeBytes)).toBeLessThan(200 * MIB)
})

test("there is room for little, and none for more than the machine has", () => {
  const memory = new HostMemory(noLedger)
  expect(memory.hasRoomFor(4 * MIB)).toBe(true)
  expect(memory.hasRoomFor(hostMemory().totalBytes)).toBe(false)
})

test("what sessions promised and nobody has written is as good as taken, from when it was promised", () => {
  const promised = { bytes: 0 }
  const memory = new HostMemory({
    ...noLedger,
    unwrittenBytes: () => promised.bytes,
    othersBytes: () => promised.bytes,
  })
  expect(memory.hasRoomFor(MIB)).toBe(true)
  promised.bytes = hostMemory().totalBytes
  expect(memory.hasRoomFor(MIB)).toBe(false)
  expect(memory.read().freeBytes).toBe(0)
})
