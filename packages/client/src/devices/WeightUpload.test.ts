/** Which weights are offered to a server's cache before they are sent. */
import { ptr } from "bun:ffi"
import { expect, test } from "bun:test"
import { asPointer, io } from "@ggml-rpc/native/bindings"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import type { Exchange } from "./Exchange.ts"
import { WeightUpload } from "./WeightUpload.ts"

const data = new Uint8Array(64)

/** Milliseconds that hashing and asking take, and sending. */
const HASH_MS = 10

/** A server that has weights of these numbers, by a clock that only offers and uploads move. */
const loadOf = (sendMs: number) => {
  let clockMs = 0
  let asked = 0
  let has = false
  const connection = {
    failure: undefined,
    block: new Uint8Array(0),
    dialect: { writeSetTensorHash: () => {} },
    reserve: () => 0,
    roundTrip: () => {
      asked++
      clockMs += HASH_MS
      return Uint8Array.of(has ? 1 : 0)
    },
  } as unknown as RpcConnection
  const weights = new WeightUpload({} as Exchange, () => clockMs)
  /** Loads weights; which of them were sent, and how many were asked about. */
  const load = (count: number, cached: (index: number) => boolean) => {
    weights.begin()
    asked = 0
    const sent: number[] = []
    for (let index = 0; index < count; index++) {
      has = cached(index)
      if (weights.offer(connection, ptr(data) as number, 0, data.length)) continue
      sent.push(index)
      clockMs += sendMs
    }
    return { sent, asked }
  }
  return { load, connection, weights }
}

test("a server that has all is sent nothing", () => {
  const { sent, asked } = loadOf(10).load(100, () => true)
  expect(sent).toEqual([])
  expect(asked).toBe(100)
})

test.each([
  [10, 6],
  [100, 60],
])("one that has nothing costs a twentieth of the time: %p ms to send", (sendMs, most) => {
  const { sent, asked } = loadOf(sendMs).load(100, () => false)
  expect(sent).toHaveLength(100)
  expect(asked).toBeLessThanOrEqual(most)
})

test("a file that is missing costs itself alone", () => {
  const { sent } = loadOf(100).load(100, (index) => index !== 40)
  expect(sent).toEqual([40])
})

test("layers that are new to it cost little more than themselves, and the others are found", () => {
  const { sent } = loadOf(100).load(100, (index) => index >= 14)
  expect(sent.slice(0, 14)).toEqual(Array.from({ length: 14 }, (_, index) => index))
  expect(sent.length).toBeLessThanOrEqual(17)
})

test("the next load finds what this one sent", () => {
  const { load } = loadOf(10)
  expect(load(50, () => false).sent).toHaveLength(50)
  expect(load(50, () => true).sent).toEqual([])
})

test("without a cache nothing is asked", () => {
  const { load, connection, weights } = loadOf(10)
  weights.expectNoCache(connection)
  expect(load(10, () => true)).toEqual({
    sent: Array.from({ length: 10 }, (_, at) => at),
    asked: 0,
  })
})

test("a tensor above 4 GiB is offered as well", () => {
  const sizeBytes = 2 ** 32 + 4096
  // Zeros that take no memory.
  const memory = Number(io().io_reserve_memory(sizeBytes))
  try {
    const { connection, weights } = loadOf(1)
    expect(weights.offer(connection, memory, 0, sizeBytes)).toBe(false)
    expect(weights.cachedBytes).toBe(0)
  } finally {
    io().io_release_memory(asPointer(memory), sizeBytes)
  }
}, 60_000)
