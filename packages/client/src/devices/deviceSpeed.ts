/** How fast a server's device multiplies: a matrix of quantized weights with one row, as for a token, and with many, as for a prompt. */
import { ptr } from "bun:ffi"
import type { Address } from "@ggml-rpc/native/bindings"
import { Command, opId, RpcTensor, TensorFlag, typeId } from "@ggml-rpc/protocol"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import type { DeviceSpeed } from "../engine/messages.ts"
import type { DeviceState } from "./device.ts"
import { medianQuestionMs } from "./linkSpeed.ts"
import { awaitFence, putFence, putGraphCompute } from "./requests.ts"

const WIDTH = 4096
/**
 * 136 MiB of Q8_0, which is more than most devices cache, read whole by every product of a token; a processor clears it in 0.1 s.
 * A device without room for it gets half, or half of that, down to 17 MiB.
 */
const MOST_HEIGHT = 32_768
const LEAST_HEIGHT = 4096
const PROMPT_ROWS = 32
/** What is multiplied first with many rows; a fast device gets more. */
const FIRST_PROMPT_HEIGHT = 1024
const Q8_0_BLOCK = 32
const Q8_0_BLOCK_BYTES = 34
const F32_BYTES = 4
const WEIGHT_ROW_BYTES = (WIDTH / Q8_0_BLOCK) * Q8_0_BLOCK_BYTES
const INPUT_BYTES = WIDTH * PROMPT_ROWS * F32_BYTES
/** The shortest counts. Each is so short that some are not disturbed on a busy machine. */
const RUNS = 8
/** What products take before it tells anything: so long, and several round trips, which vary. */
const LONG_ENOUGH_MS = 2
const LONG_ENOUGH_TRIPS = 3
/** In a graph. */
const MOST_NODES = 1024

/** What is measured of a device: it does not tell whether others of its server compute at the same time. */
export type MeasuredSpeed = Omit<DeviceSpeed, "isAtOnce">

/**
 * Undefined when the connection broke, the device has no memory for it, or the way to it is too long to tell how fast it is.
 * Nothing else may be under way on the connection.
 */
export const measureDevice = (state: DeviceState): MeasuredSpeed | undefined => {
  const { connection, name } = state
  const roundTripMs = medianQuestionMs(connection)
  const matrix = takeMatrix(state)
  if (matrix === undefined) return undefined
  try {
    const token = rowsPerMs(state, matrix, roundTripMs, matrix.height, 1)
    if (token === undefined) return undefined
    const prompt = rowsPerMs(state, matrix, roundTripMs, FIRST_PROMPT_HEIGHT, PROMPT_ROWS)
    if (prompt === undefined) return undefined
    return {
      device: name,
      weightBytesPerSecond: token * WEIGHT_ROW_BYTES * 1000,
      multiplicationsPerSecond: prompt * WIDTH * PROMPT_ROWS * 1000,
    }
  } finally {
    // Where the connection broke, the server frees it.
    connection.post(Command.FREE_BUFFER, { remotePtr: matrix.remotePtr })
    connection.expectAnswer(Command.FREE_BUFFER)
    connection.flush()
  }
}

/** A buffer for weights, WIDTH × `height`, the rows that they are multiplied with, and the product. */
interface Matrix {
  readonly remotePtr: bigint
  readonly base: bigint
  readonly height: number
}

/** The highest that the device has room for. */
const takeMatrix = ({ connection, deviceIndex }: DeviceState): Matrix | undefined => {
  for (let height = MOST_HEIGHT; height >= LEAST_HEIGHT; height /= 2) {
    const outputBytes = height * PROMPT_ROWS * F32_BYTES
    const buffer = connection.call(Command.ALLOC_BUFFER, {
      device: deviceIndex,
      sizeBytes: BigInt(height * WEIGHT_ROW_BYTES + INPUT_BYTES + outputBytes),
    })
    if (buffer === undefined) return undefined
    const { remotePtr } = buffer
    if (remotePtr === 0n) continue
    const base = connection.call(Command.BUFFER_GET_BASE, { remotePtr })
    if (base === undefined) return undefined
    // Written once, so that the pages are there.
    connection.post(Command.BUFFER_CLEAR, { remotePtr, value: 0 })
    connection.expectAnswer(Command.BUFFER_CLEAR)
    return { remotePtr, base: base.basePtr, height }
  }
  return undefined
}

/**
 * How many rows of weights a device multiplies with `rowCount` rows in a millisecond: with `firstHeight` of them at first, then with
 * more, then by more nodes, until that takes long enough. Undefined where it never does, or the connection broke.
 */
const rowsPerMs = (
  { connection, deviceIndex, storedGraphs }: DeviceState,
  matrix: Matrix,
  roundTripMs: number,
  firstHeight: number,
  rowCount: number,
): number | undefined => {
  let height = firstHeight
  let nodeCount = 1
  let records = products(connection, matrix, height, rowCount, nodeCount)
  /** With all tensors, whatever it computes. */
  const graphMs = (computed: number): number => {
    const begun = performance.now()
    const at = ptr(records) as Address
    putGraphCompute(connection, deviceIndex, 0, 0, IDS, computed, at, LEAVES + nodeCount)
    storedGraphs.sending(0, 0)
    putFence(connection)
    awaitFence(connection)
    return performance.now() - begun
  }
  /** A graph of many nodes is longer on its way as well: the same one, of which one node is computed, tells how long. */
  const wayMs = (): number => (nodeCount === 1 ? roundTripMs : graphMs(1))
  const longEnoughMs = Math.max(LONG_ENOUGH_MS, LONG_ENOUGH_TRIPS * roundTripMs)
  // The first one warms up.
  graphMs(1)
  while (connection.failure === undefined) {
    let shortest = graphMs(nodeCount)
    let way = wayMs()
    for (let run = 1; run < RUNS && shortest - way >= longEnoughMs; run++) {
      shortest = Math.min(shortest, graphMs(nodeCount))
      way = Math.min(way, wayMs())
    }
    const tookMs = shortest - way
    if (tookMs >= longEnoughMs) return (height * Math.max(1, nodeCount - 1)) / tookMs
    if (height < matrix.height) height *= 2
    else if (nodeCount < MOST_NODES) nodeCount *= 2
    else return undefined
    records = products(connection, matrix, height, rowCount, nodeCount)
  }
  return undefined
}

const LEAVES = 2
const nodeIds = BigUint64Array.from({ length: MOST_NODES }, (_, node) => BigInt(LEAVES + 1 + node))
const IDS = ptr(nodeIds) as Address

/** The first `height` rows of the weights, rows, and their product `nodeCount` times, each time into the same place. */
const products = (
  { dialect }: RpcConnection,
  { remotePtr, base, height: wholeHeight }: Matrix,
  height: number,
  rowCount: number,
  nodeCount: number,
): Uint8Array => {
  const opsToWire = dialect.ops.toWire
  const ofBuffer = { buffer: remotePtr, opParams: new Array(16).fill(0), viewSrc: 0n }
  const leaf = { ...ofBuffer, viewOffset: 0n, useCount: 0 }
  const rows = base + BigInt(wholeHeight * WEIGHT_ROW_BYTES)
  const none = { op: opsToWire[opId("NONE")]!, flags: 0, src: new Array(10).fill(0n) }
  const f32 = (width: number) => ({
    type: typeId("F32"),
    ne: [width, rowCount, 1, 1] as const,
    nb: [F32_BYTES, width * F32_BYTES, ...twice(width * rowCount * F32_BYTES)] as const,
  })
  const product = {
    ...{ ...leaf, ...f32(height), name: "product" },
    data: rows + BigInt(INPUT_BYTES),
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
    { ...leaf, ...none, ...f32(WIDTH), id: 2n, name: "rows", data: rows },
    ...Array.from(nodeIds.subarray(0, nodeCount), (id) => ({ ...product, id })),
  ]
  const records = new Uint8Array(tensors.length * RpcTensor.size)
  const view = new DataView(records.buffer)
  for (const [index, tensor] of tensors.entries()) {
    RpcTensor.encode(tensor, view, index * RpcTensor.size)
  }
  return records
}

const twice = (value: number) => [value, value] as const
