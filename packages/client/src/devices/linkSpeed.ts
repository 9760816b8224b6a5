/** How fast the way to a server is: some short questions, then data into a buffer of it, and back. */
import { ptr } from "bun:ffi"
import type { Address } from "@ggml-rpc/native/bindings"
import {
  Command,
  GetTensorRequest,
  REQUEST_HEADER_SIZE_BYTES,
  RpcTensor,
  typeId,
} from "@ggml-rpc/protocol"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import type { LinkSpeed } from "../engine/messages.ts"
import { awaitFence, putFence } from "./requests.ts"

const QUESTION_COUNT = 25
/** Questions over a slow link end sooner. */
const QUESTIONS_MS = 500
/** The buffer: the server's device has to have so much free. */
const BUFFER_BYTES = 4 * 1024 * 1024
/** What is tried first; twice as much each time, until it took long enough to tell. */
const FIRST_BYTES = 64 * 1024
const LONG_ENOUGH_MS = 50
const MOST_BYTES = 64 * 1024 * 1024

/** Undefined when the connection broke. Nothing else may be under way on it. */
export const measureLink = (connection: RpcConnection): LinkSpeed | undefined => {
  const roundTripMs = medianQuestionMs(connection)
  const memory = takeMemory(connection)
  const { endpoint } = connection
  if (memory === undefined) {
    return connection.failure === undefined ? { endpoint, roundTripMs } : undefined
  }
  const uploadBytesPerSecond = rateOf(roundTripMs, (sizeBytes) => {
    upload(connection, memory, sizeBytes)
  })
  const downloadBytesPerSecond = rateOf(roundTripMs, (sizeBytes) => {
    download(connection, memory, sizeBytes)
  })
  connection.post(Command.FREE_BUFFER, { remotePtr: memory.remotePtr })
  connection.expectAnswer(Command.FREE_BUFFER)
  connection.flush()
  return connection.failure === undefined
    ? { endpoint, roundTripMs, uploadBytesPerSecond, downloadBytesPerSecond }
    : undefined
}

const ask = (connection: RpcConnection): void => {
  putFence(connection)
  awaitFence(connection)
}

/** A round trip. */
export const medianQuestionMs = (connection: RpcConnection): number => {
  // What was sent before may still be at work.
  ask(connection)
  const begun = performance.now()
  const times: Array<number> = []
  let last = begun
  while (times.length < QUESTION_COUNT && last - begun < QUESTIONS_MS) {
    ask(connection)
    const now = performance.now()
    times.push(now - last)
    last = now
  }
  return times.sort((a, b) => a - b)[times.length >> 1]!
}

/** A buffer on the server, as the tensor that it holds, and as much memory here. */
interface Memory {
  readonly remotePtr: bigint
  readonly tensor: Uint8Array
  readonly data: Uint8Array
}

const takeMemory = (connection: RpcConnection): Memory | undefined => {
  const buffer = connection.call(Command.ALLOC_BUFFER, {
    device: 0,
    sizeBytes: BigInt(BUFFER_BYTES),
  })
  if (buffer === undefined || buffer.remotePtr === 0n) return undefined
  const { remotePtr } = buffer
  const base = connection.call(Command.BUFFER_GET_BASE, { remotePtr })
  if (base === undefined) return undefined
  const tensor = new Uint8Array(RpcTensor.size)
  RpcTensor.encode(bytesTensor(remotePtr, base.basePtr), new DataView(tensor.buffer), 0)
  return { remotePtr, tensor, data: new Uint8Array(BUFFER_BYTES) }
}

const F32_BYTES = 4

const bytesTensor = (buffer: bigint, data: bigint): RpcTensor => ({
  id: 1n,
  type: typeId("F32"),
  buffer,
  ne: [BUFFER_BYTES / F32_BYTES, 1, 1, 1],
  nb: [F32_BYTES, BUFFER_BYTES, BUFFER_BYTES, BUFFER_BYTES],
  op: 0,
  opParams: new Array(16).fill(0),
  flags: 0,
  src: new Array(10).fill(0n),
  viewSrc: 0n,
  viewOffset: 0n,
  data,
  name: "link",
  useCount: 0,
})

/** Moves more and more by `move`, which waits for its end; the round trip of that is not counted. */
const rateOf = (roundTripMs: number, move: (sizeBytes: number) => void): number => {
  const longEnoughMs = LONG_ENOUGH_MS + roundTripMs
  const msOf = (sizeBytes: number): number => {
    const begun = performance.now()
    move(sizeBytes)
    return performance.now() - begun
  }
  for (let sizeBytes = FIRST_BYTES; ; sizeBytes *= 2) {
    let tookMs = msOf(sizeBytes)
    // Once, it may be something else that held it up.
    if (tookMs >= longEnoughMs) tookMs = Math.min(tookMs, msOf(sizeBytes))
    if (tookMs < longEnoughMs && sizeBytes < MOST_BYTES) continue
    // The first packets leave within the round trip.
    return (sizeBytes / Math.max(tookMs - roundTripMs, tookMs / 2)) * 1000
  }
}

const pieces = (sizeBytes: number, each: (pieceBytes: number) => void): void => {
  for (let left = sizeBytes; left > 0; left -= BUFFER_BYTES) each(Math.min(left, BUFFER_BYTES))
}

const upload = (connection: RpcConnection, { tensor, data }: Memory, sizeBytes: number): void => {
  const { dialect } = connection
  pieces(sizeBytes, (pieceBytes) => {
    const at = connection.reserve(dialect.setTensorRequestBytes)
    dialect.writeSetTensorPrefix(connection.block, at, tensor, 0, 0, pieceBytes)
    connection.append(ptr(data) as Address, pieceBytes)
  })
  ask(connection)
}

const download = (connection: RpcConnection, { tensor, data }: Memory, sizeBytes: number): void => {
  const { dialect } = connection
  let ticket = 0
  pieces(sizeBytes, (pieceBytes) => {
    const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + GetTensorRequest.size)
    dialect.writeGetTensor(connection.block, at, tensor, 0, pieceBytes)
    ticket = connection.expect(ptr(data) as Address, pieceBytes)
  })
  connection.drainTo(ticket)
}
