/** How fast a server's device multiplies: a matrix of quantized weights with one row, as for a token, and with many, as for a prompt. */
import { ptr } from "bun:ffi"
import type { Address } from "@ggml-rpc/native/bindings"
import { Command, opId, RpcTensor, TensorFlag, typeId } from "@ggml-rpc/protocol"
import type { DeviceSpeed } from "../engine/messages.ts"
import type { DeviceState } from "./device.ts"
import { awaitFence, putFence, putGraphCompute } from "./requests.ts"

/** 17 MiB of Q8_0, which is more than processors cache for one core. */
const WIDTH = 4096
const HEIGHT = 4096
const PROMPT_ROWS = 32
const Q8_0_BLOCK = 32
const Q8_0_BLOCK_BYTES = 34
const F32_BYTES = 4
const WEIGHT_ROW_BYTES = (WIDTH / Q8_0_BLOCK) * Q8_0_BLOCK_BYTES
const WEIGHT_BYTES = WEIGHT_ROW_BYTES * HEIGHT
const INPUT_BYTES = WIDTH * PROMPT_ROWS * F32_BYTES
const OUTPUT_BYTES = HEIGHT * PROMPT_ROWS * F32_BYTES
const RUNS = 3

/** Undefined when the connection broke, or the device has no memory for it. Nothing else may be under way on the connection. */
export const measureDevice = (
  { connection, deviceIndex, name, storedGraphs }: DeviceState,
  roundTripMs: number,
): DeviceSpeed | undefined => {
  const buffer = connection.call(Command.ALLOC_BUFFER, {
    device: deviceIndex,
    sizeBytes: BigInt(WEIGHT_BYTES + INPUT_BYTES + OUTPUT_BYTES),
  })
  if (buffer === undefined || buffer.remotePtr === 0n) return undefined
  const { remotePtr } = buffer
  const base = connection.call(Command.BUFFER_GET_BASE, { remotePtr })
  if (base === undefined) return undefined
  // Written once, so that the pages are there.
  connection.post(Command.BUFFER_CLEAR, { remotePtr, value: 0 })
  connection.expectAnswer(Command.BUFFER_CLEAR)
  const ask = (): void => {
    putFence(connection)
    awaitFence(connection)
  }
  const shortestMs = (rowCount: number): number => {
    const records = product(remotePtr, base.basePtr, rowCount, connection.dialect.ops.toWire)
    let shortest = Number.POSITIVE_INFINITY
    for (let run = 0; run <= RUNS; run++) {
      const begun = performance.now()
      putGraphCompute(connection, deviceIndex, 0, 0, IDS, 1, ptr(records) as Address, 3)
      storedGraphs.sending(0, 0)
      ask()
      // The first one warms up.
      if (run > 0) shortest = Math.min(shortest, performance.now() - begun)
    }
    return Math.max(shortest - roundTripMs, shortest / 10)
  }
  const tokenMs = shortestMs(1)
  const promptMs = shortestMs(PROMPT_ROWS)
  connection.post(Command.FREE_BUFFER, { remotePtr })
  connection.expectAnswer(Command.FREE_BUFFER)
  connection.flush()
  if (connection.failure !== undefined) return undefined
  return {
    device: name,
    weightBytesPerSecond: (WEIGHT_BYTES / tokenMs) * 1000,
    multiplicationsPerSecond: ((WIDTH * HEIGHT * PROMPT_ROWS) / promptMs) * 1000,
  }
}

const NODE = 3n
const ids = BigUint64Array.of(NODE)
const IDS = ptr(ids) as Address

/** Weights, rows, and their product, which is the node. */
const product = (
  buffer: bigint,
  base: bigint,
  rowCount: number,
  opsToWire: Int16Array,
): Uint8Array => {
  const leaf = { buffer, opParams: new Array(16).fill(0), viewSrc: 0n, viewOffset: 0n, useCount: 0 }
  const none = { op: opsToWire[opId("NONE")]!, flags: 0, src: new Array(10).fill(0n) }
  const f32 = (width: number) => ({
    type: typeId("F32"),
    ne: [width, rowCount, 1, 1] as const,
    nb: [F32_BYTES, width * F32_BYTES, ...twice(width * rowCount * F32_BYTES)] as const,
  })
  const tensors = [
    {
      ...{ ...leaf, ...none, id: 1n, name: "weights", data: base },
      ...{ type: typeId("Q8_0"), ne: [WIDTH, HEIGHT, 1, 1] as const },
      nb: [Q8_0_BLOCK_BYTES, WEIGHT_ROW_BYTES, ...twice(WEIGHT_BYTES)] as const,
    },
    { ...leaf, ...none, ...f32(WIDTH), id: 2n, name: "rows", data: base + BigInt(WEIGHT_BYTES) },
    {
      ...{ ...leaf, ...f32(HEIGHT), id: NODE, name: "product" },
      data: base + BigInt(WEIGHT_BYTES + INPUT_BYTES),
      op: opsToWire[opId("MUL_MAT")]!,
      flags: TensorFlag.COMPUTE,
      src: [1n, 2n, ...new Array(8).fill(0n)],
    },
  ]
  const records = new Uint8Array(tensors.length * RpcTensor.size)
  const view = new DataView(records.buffer)
  for (const [index, tensor] of tensors.entries()) {
    RpcTensor.encode(tensor, view, index * RpcTensor.size)
  }
  return records
}

const twice = (value: number) => [value, value] as const
