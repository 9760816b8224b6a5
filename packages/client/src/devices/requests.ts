/**
 * The requests of the remote devices, written straight into a connection's block: no object, no bigint, no allocation.
 * Tensors come from the exchange block. With connection/dialect.ts the only code here that depends on the protocol's
 * version.
 */
import type { Address } from "@ggml-rpc/native/bindings"
import {
  Command,
  type Fnv1a64,
  GetAllocSizeRequest,
  GetTensorRequest,
  graphSizeBytes,
  MemsetTensorRequest,
  type MessageId,
  REQUEST_HEADER_SIZE_BYTES,
  RpcTensor,
  readU64AsNumber,
  SET_TENSOR_PREFIX_SIZE_BYTES,
  SetTensorHashRequest,
  writeGetTensorRequest,
  writeGraphRecomputeRequest,
  writeRequestHeader,
  writeSetTensorHashRequest,
  writeSetTensorPrefix,
  writeU64FromNumber,
} from "@ggml-rpc/protocol"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import {
  type Exchange,
  OTHER_OFFSET,
  RECORD_SIZE_BYTES,
  SOURCES_END,
  SOURCES_OFFSET,
  TENSOR_OFFSET,
} from "./Exchange.ts"

const GRAPH_RECOMPUTE_SIZE_BYTES = REQUEST_HEADER_SIZE_BYTES + 4

const putTensor = (
  connection: RpcConnection,
  exchange: Exchange,
  exchangeOffset: number,
  at: number,
): void => {
  connection.block.set(
    exchange.bytes.subarray(exchangeOffset, exchangeOffset + RECORD_SIZE_BYTES),
    at,
  )
}

/** Header and room of a request; returns where its payload begins. */
const begin = (connection: RpcConnection, command: MessageId, sizeBytes: number): number => {
  const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + sizeBytes)
  writeRequestHeader(connection.blockView, at, command, sizeBytes)
  return at + REQUEST_HEADER_SIZE_BYTES
}

export const putInitTensor = (connection: RpcConnection, exchange: Exchange): void => {
  const payload = begin(connection, Command.INIT_TENSOR, RpcTensor.size)
  putTensor(connection, exchange, TENSOR_OFFSET, payload)
}

export const putMemsetTensor = (
  connection: RpcConnection,
  exchange: Exchange,
  value: number,
  offset: number,
  sizeBytes: number,
): void => {
  const { offsets, size } = MemsetTensorRequest
  const payload = begin(connection, Command.MEMSET_TENSOR, size)
  putTensor(connection, exchange, TENSOR_OFFSET, payload + offsets.tensor)
  writeU64FromNumber(connection.blockView, payload + offsets.offsetBytes, offset)
  writeU64FromNumber(connection.blockView, payload + offsets.sizeBytes, sizeBytes)
  connection.block[payload + offsets.value] = value
}

/** All of SET_TENSOR but its `sizeBytes` of data, which follow. */
export const putSetTensor = (
  connection: RpcConnection,
  exchange: Exchange,
  cacheFlag: 0 | 1,
  offset: number,
  sizeBytes: number,
): void => {
  const at = connection.reserve(SET_TENSOR_PREFIX_SIZE_BYTES)
  writeSetTensorPrefix(
    connection.block,
    at,
    exchange.bytes,
    TENSOR_OFFSET,
    cacheFlag,
    offset,
    sizeBytes,
  )
}

/** Asks whether the server has data of this hash in its cache, and takes it from there: true when it had. */
export const askSetTensorHash = (
  connection: RpcConnection,
  exchange: Exchange,
  offset: number,
  hash: Fnv1a64,
): boolean => {
  const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + SetTensorHashRequest.size)
  writeSetTensorHashRequest(
    connection.block,
    at,
    exchange.bytes,
    TENSOR_OFFSET,
    offset,
    hash.digestLo(),
    hash.digestHi(),
  )
  return connection.roundTrip(Command.SET_TENSOR_HASH, 1)?.[0] === 1
}

export const putGetTensor = (
  connection: RpcConnection,
  exchange: Exchange,
  offset: number,
  sizeBytes: number,
): void => {
  const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + GetTensorRequest.size)
  writeGetTensorRequest(connection.block, at, exchange.bytes, TENSOR_OFFSET, offset, sizeBytes)
}

/** Copies the exchange block's tensor to its other one, on one server: 1 when that did it. */
export const askCopyTensor = (connection: RpcConnection, exchange: Exchange): number => {
  const payload = begin(connection, Command.COPY_TENSOR, 2 * RpcTensor.size)
  putTensor(connection, exchange, TENSOR_OFFSET, payload)
  putTensor(connection, exchange, OTHER_OFFSET, payload + RpcTensor.size)
  return connection.roundTrip(Command.COPY_TENSOR, 1)?.[0] ?? 0
}

/** Bytes that the exchange block's tensor takes with its sources; negative when the server gives no number. */
export const askAllocSize = (
  connection: RpcConnection,
  exchange: Exchange,
  deviceIndex: number,
): number => {
  const { offsets, size } = GetAllocSizeRequest
  const payload = begin(connection, Command.GET_ALLOC_SIZE, size)
  connection.blockView.setUint32(payload + offsets.device, deviceIndex, true)
  putTensor(connection, exchange, TENSOR_OFFSET, payload + offsets.tensor)
  connection.block.set(exchange.bytes.subarray(SOURCES_OFFSET, SOURCES_END), payload + offsets.srcs)
  const answer = connection.roundTrip(Command.GET_ALLOC_SIZE, 8)
  if (answer === undefined) return -1
  return readU64AsNumber(new DataView(answer.buffer, answer.byteOffset, 8), 0)
}

/**
 * GRAPH_COMPUTE: u32 device, u32 N, u64 id[N], u32 M, rpc_tensor[M]; ids and records go out from native memory.
 */
export const putGraphCompute = (
  connection: RpcConnection,
  deviceIndex: number,
  ids: Address,
  nodeCount: number,
  records: Address,
  tensorCount: number,
): void => {
  const view = connection.blockView
  const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + 8)
  writeRequestHeader(view, at, Command.GRAPH_COMPUTE, graphSizeBytes(nodeCount, tensorCount))
  view.setUint32(at + REQUEST_HEADER_SIZE_BYTES, deviceIndex, true)
  view.setUint32(at + REQUEST_HEADER_SIZE_BYTES + 4, nodeCount, true)
  connection.append(ids, nodeCount * 8)
  const countAt = connection.reserve(4)
  view.setUint32(countAt, tensorCount, true)
  connection.append(records, tensorCount * RpcTensor.size)
}

export const putGraphRecompute = (connection: RpcConnection, deviceIndex: number): void => {
  const at = connection.reserve(GRAPH_RECOMPUTE_SIZE_BYTES)
  writeGraphRecomputeRequest(connection.block, at, deviceIndex)
}

/** Asks something that needs no work, after what came before: the answer comes when all of that is done. */
export const putFence = (connection: RpcConnection): void =>
  connection.post(Command.DEVICE_COUNT, {})

/** Waits for the answer to `putFence`. */
export const awaitFence = (connection: RpcConnection): void => {
  connection.roundTrip(Command.DEVICE_COUNT, 4)
}
