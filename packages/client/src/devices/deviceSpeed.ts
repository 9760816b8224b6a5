/** How fast a server's device multiplies: a matrix of quantized weights with one row, as for a token, and with many, as for a prompt. */
import { ptr } from "bun:ffi"
import type { Address } from "@ggml-rpc/native/bindings"
import { Command, opId, RpcTensor, TensorFlag, typeId } from "@ggml-rpc/protocol"
import type { DeviceSpeed } from "../engine/messages.ts"
import type { DeviceState } from "./device.ts"
import { medianQuestionMs } from "./linkSpeed.ts"
import { awaitFence, putFence, putGraphCompute } from "./requests.ts"

/** 17 MiB of Q8_0, which is more than processors cache for one core. */
const WIDTH = 4096
const HEIGHT = 4096
const PROMPT_ROWS = 32
/** What is computed of it with many rows: it takes about as long then. */
const PROMPT_HEIGHT = HEIGHT / 4
const Q8_0_BLOCK = 32
const Q8_0_BLOCK_BYTES = 34
const F32_BYTES = 4
const WEIGHT_ROW_BYTES = (WIDTH / Q8_0_BLOCK) * Q8_0_BLOCK_BYTES
const WEIGHT_BYTES = WEIGHT_ROW_BYTES * HEIGHT
const INPUT_BYTES = WIDTH * PROMPT_ROWS * F32_BYTES
const OUTPUT_BYTES = PROMPT_HEIGHT * PROMPT_ROWS * F32_BYTES
/** The shortest counts. Each is so short that some are not disturbed on a busy machine. */
const RUNS = 8
/** What a graph takes besides the round trip before it tells anything: so long, and several round trips, which vary. */
const LONG_ENOUGH_MS = 2
const LONG_ENOUGH_TRIPS = 3
/** The same product so often in a graph at most. */
const MOST_NODES = 64

/** Undefined when the connection broke, or the device has no memory for it. Nothing else may be under way on the connection. */
export const measureDevice = ({
  connection,
  deviceIndex,
  name,
  storedGraphs,
}: DeviceState): DeviceSpeed | undefined => {
  const roundTripMs = medianQuestionMs(connection)
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
  const graphMs = (records: Uint8Array, nodeCount: number): number => {
    const begun = performance.now()
    const at = ptr(records) as Address
    putGraphCompute(connection, deviceIndex, 0, 0, IDS, nodeCount, at, LEAVES + nodeCount)
    storedGraphs.sending(0, 0)
    ask()
    return performance.now() - begun
  }
  const longEnoughMs = Math.max(LONG_ENOUGH_MS, LONG_ENOUGH_TRIPS * roundTripMs) + roundTripMs
  /** Of one product. */
  const shortestMs = (height: number, rowCount: number): number => {
    const { toWire } = connection.dialect.ops
    const records = products(remotePtr, base.basePtr, height, rowCount, toWire)
    // The first one warms up.
    graphMs(records, 1)
    let nodeCount = 1
    let shortest = graphMs(records, nodeCount)
    while (shortest < longEnoughMs && nodeCount < MOST_NODES) {
      nodeCount *= 2
      shortest = graphMs(records, nodeCount)
    }
    for (let run = 1; run < RUNS; run++) shortest = Math.min(shortest, graphMs(records, nodeCount))
    return Math.max(shortest - roundTripMs, shortest / 10) / nodeCount
  }
  const tokenMs = shortestMs(HEIGHT, 1)
  const promptMs = shortestMs(PROMPT_HEIGHT, PROMPT_ROWS)
  connection.post(Command.FREE_BUFFER, { remotePtr })
  connection.expectAnswer(Command.FREE_BUFFER)
  connection.flush()
  if (connection.failure !== undefined) return undefined
  return {
    device: name,
    weightBytesPerSecond: (WEIGHT_BYTES / tokenMs) * 1000,
    multiplicationsPerSecond: ((WIDTH * PROMPT_HEIGHT * PROMPT_ROWS) / promptMs) * 1000,
  }
}

const LEAVES = 2
const nodeIds = BigUint64Array.from({ length: MOST_NODES }, (_, node) => BigInt(LEAVES + 1 + node))
const IDS = ptr(nodeIds) as Address

/** Weights, rows, and their product as often as there may be nodes, each time into the same place. */
const products = (
  buffer: bigint,
  base: bigint,
  height: number,
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
  const product = {
    ...{ ...leaf, ...f32(height), name: "product" },
    data: base + BigInt(WEIGHT_BYTES + INPUT_BYTES),
    op: opsToWire[opId("MUL_MAT")]!,
    flags: TensorFlag.COMPUTE,
    src: [1n, 2n, ...new Array(8).fill(0n)],
  }
  const tensors = [
    {
      ...{ ...leaf, ...none, id: 1n, name: "weights", data: base },
      ...{ type: typeId("Q8_0"), ne: [WIDTH, height, 1, 1] as const },
      nb: [Q8_0_BLOCK_BYTES, WEIGHT_ROW_BYTES, ...twice(WEIGHT_ROW_BYTES * height)] as const,
    },
    { ...leaf, ...none, ...f32(WIDTH), id: 2n, name: "rows", data: base + BigInt(WEIGHT_BYTES) },
    ...Array.from(nodeIds, (id) => ({ ...product, id })),
  ]
  const records = new Uint8Array(tensors.length * RpcTensor.size)
  const view = new DataView(records.buffer)
  for (const [index, tensor] of tensors.entries()) {
    RpcTensor.encode(tensor, view, index * RpcTensor.size)
  }
  return records
}

const twice = (value: number) => [value, value] as const
