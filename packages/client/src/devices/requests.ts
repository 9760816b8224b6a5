/**
 * The requests of the remote devices, written straight into a connection's block: no object, no bigint, no allocation.
 * Tensors come from the exchange block; layouts from the connection's dialect.
 */
import { ptr } from "bun:ffi"
import { type Address, asPointer, io, type WeightHash } from "@ggml-rpc/native/bindings"
import {
  AllReduceRequest,
  Command,
  ExtensionCommand,
  extensionCommands,
  GetTensorRequest,
  GetTensorTopRequest,
  MemsetTensorRequest,
  type MessageId,
  REQUEST_HEADER_SIZE_BYTES,
  RpcTensor,
  readU64AsNumber,
  SetTensorBf16Prefix,
  SetTensorHashRequest,
  writeRequestHeader,
  writeU64FromNumber,
} from "@ggml-rpc/protocol"
import { COPY_LIMIT_BYTES } from "../connection/RequestStream.ts"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import type { Exchange } from "./Exchange.ts"

/** Header and room of a request; returns where its payload begins. */
const begin = (connection: RpcConnection, command: MessageId, sizeBytes: number): number => {
  const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + sizeBytes)
  writeRequestHeader(connection.blockView, at, command, sizeBytes)
  return at + REQUEST_HEADER_SIZE_BYTES
}

export const putFreeBuffer = (connection: RpcConnection, remotePtr: bigint): void => {
  connection.post(Command.FREE_BUFFER, { remotePtr })
  connection.expectAnswer(Command.FREE_BUFFER)
}

export const putBufferClear = (
  connection: RpcConnection,
  remotePtr: bigint,
  value: number,
): void => {
  connection.post(Command.BUFFER_CLEAR, { remotePtr, value })
  connection.expectAnswer(Command.BUFFER_CLEAR)
}

export const putInitTensor = (connection: RpcConnection, exchange: Exchange): void => {
  const payload = begin(connection, Command.INIT_TENSOR, RpcTensor.size)
  connection.block.set(exchange.tensor, payload)
  connection.expectAnswer(Command.INIT_TENSOR)
}

/** Sets `sizeBytes` of the exchange block's tensor to a byte; by its data where the version has no such command. */
export const putMemsetTensor = (
  connection: RpcConnection,
  exchange: Exchange,
  value: number,
  offset: number,
  sizeBytes: number,
): void => {
  if (!connection.dialect.has("MEMSET_TENSOR")) {
    putRepeated(connection, exchange, value, offset, sizeBytes)
    return
  }
  const { offsets, size } = MemsetTensorRequest
  const payload = begin(connection, Command.MEMSET_TENSOR, size)
  connection.block.set(exchange.tensor, payload + offsets.tensor)
  writeU64FromNumber(connection.blockView, payload + offsets.offsetBytes, offset)
  writeU64FromNumber(connection.blockView, payload + offsets.sizeBytes, sizeBytes)
  connection.block[payload + offsets.value] = value
  connection.expectAnswer(Command.MEMSET_TENSOR)
}

const repeated = new Uint8Array(COPY_LIMIT_BYTES)

const putRepeated = (
  connection: RpcConnection,
  exchange: Exchange,
  value: number,
  offset: number,
  sizeBytes: number,
): void => {
  repeated.fill(value)
  const data = ptr(repeated) as Address
  for (let at = 0; at < sizeBytes; at += repeated.length) {
    const chunkBytes = Math.min(repeated.length, sizeBytes - at)
    putSetTensor(connection, exchange.tensor, 0, offset + at, chunkBytes)
    connection.append(data, chunkBytes)
  }
}

/** All of SET_TENSOR but its `sizeBytes` of data, which follow. */
export const putSetTensor = (
  connection: RpcConnection,
  tensor: Uint8Array,
  cacheFlag: 0 | 1,
  offset: number,
  sizeBytes: number,
): void => {
  const { dialect } = connection
  const at = connection.reserve(dialect.setTensorRequestBytes)
  dialect.writeSetTensorPrefix(connection.block, at, tensor, cacheFlag, offset, sizeBytes)
}

/** Of rows that are shorter than what is copied anyway, many are sent at once. */
const gathered = new Uint8Array(1024 * 1024)

/** Data that continues what was reserved last: rows of `rowBytes`, `strideBytes` from the start of one to that of the next. */
export const appendRows = (
  connection: RpcConnection,
  data: Address,
  sizeBytes: number,
  rowBytes: number,
  strideBytes: number,
): void => {
  const rowCount = sizeBytes / rowBytes
  const rowsAtOnce = rowBytes > COPY_LIMIT_BYTES ? 1 : Math.floor(gathered.length / rowBytes)
  for (let row = 0; row < rowCount; row += rowsAtOnce) {
    const first = data + row * strideBytes
    const count = Math.min(rowsAtOnce, rowCount - row)
    if (count === 1) {
      connection.append(first, rowBytes)
      continue
    }
    io().io_copy_rows(gathered, asPointer(first), rowBytes, count, strideBytes)
    connection.append(ptr(gathered) as Address, count * rowBytes)
  }
}

/**
 * The exchange block's tensor of one server into its other one of another: a SET_TENSOR whose data is the answer to a
 * GET_TENSOR. Behind `awaitRelayRoom`.
 */
export const putRelay = (
  source: RpcConnection,
  receiver: RpcConnection,
  exchange: Exchange,
  sizeBytes: number,
): void => {
  putSetTensor(receiver, exchange.other, 0, 0, sizeBytes)
  const position = receiver.beginRelay(source, sizeBytes)
  if (position < 0) return
  putGetTensor(source, exchange.tensor, 0, sizeBytes)
  source.expectRelay(receiver, position, sizeBytes)
}

/** The same of `sizeBytes` of bf16, between servers that know it. */
export const putRelayBf16 = (
  source: RpcConnection,
  receiver: RpcConnection,
  exchange: Exchange,
  sizeBytes: number,
): void => {
  putSetTensorBf16(receiver, exchange.other, 0, sizeBytes)
  const position = receiver.beginRelay(source, sizeBytes)
  if (position < 0) return
  putGetTensorBf16(source, exchange.tensor, 0, sizeBytes)
  source.expectRelay(receiver, position, sizeBytes, ExtensionCommand.GET_TENSOR_BF16)
}

const FLOAT_BYTES = 4
const BF16_BYTES = 2

/** All of SET_TENSOR_BF16, for a server that announced it, but its `sizeBytes` of data, which follow. `offset` is that of floats. */
export const putSetTensorBf16 = (
  connection: RpcConnection,
  tensor: Uint8Array,
  offset: number,
  sizeBytes: number,
): void => {
  const { offsets, size } = SetTensorBf16Prefix
  const { block, blockView } = connection
  const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + size)
  writeRequestHeader(blockView, at, ExtensionCommand.SET_TENSOR_BF16, size + sizeBytes)
  const payload = at + REQUEST_HEADER_SIZE_BYTES
  block.set(tensor, payload + offsets.tensor)
  writeU64FromNumber(blockView, payload + offsets.offsetBytes, offset)
}

/** GET_TENSOR_BF16, for a server that announced it; its answer is `sizeBytes` of bf16. */
export const putGetTensorBf16 = (
  connection: RpcConnection,
  tensor: Uint8Array,
  offset: number,
  sizeBytes: number,
): void => {
  const { offsets, size } = GetTensorRequest
  const { block, blockView } = connection
  const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + size)
  writeRequestHeader(blockView, at, ExtensionCommand.GET_TENSOR_BF16, size)
  const payload = at + REQUEST_HEADER_SIZE_BYTES
  block.set(tensor, payload + offsets.tensor)
  writeU64FromNumber(blockView, payload + offsets.offsetBytes, offset)
  const floatBytes = (sizeBytes / BF16_BYTES) * FLOAT_BYTES
  writeU64FromNumber(blockView, payload + offsets.sizeBytes, floatBytes)
}

/** GET_TENSOR_TOP of rows that lie at a range, for a server that announced it; its answer has `count` values of each. */
export const putGetTensorTop = (
  connection: RpcConnection,
  tensor: Uint8Array,
  offset: number,
  sizeBytes: number,
  count: number,
): void => {
  const { offsets, size } = GetTensorTopRequest
  const { block, blockView } = connection
  const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + size)
  writeRequestHeader(blockView, at, ExtensionCommand.GET_TENSOR_TOP, size)
  const payload = at + REQUEST_HEADER_SIZE_BYTES
  block.set(tensor, payload + offsets.tensor)
  writeU64FromNumber(blockView, payload + offsets.offsetBytes, offset)
  writeU64FromNumber(blockView, payload + offsets.sizeBytes, sizeBytes)
  blockView.setUint32(payload + offsets.count, count, true)
}

/** SET_TENSOR_HASH of an encoded tensor from `offset` on; its answer is 1 when the server had it in its cache, and has put it there. */
export const putSetTensorHash = (
  connection: RpcConnection,
  tensor: Uint8Array,
  { low, high }: Pick<WeightHash, "low" | "high">,
  offset = 0,
): void => {
  const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + SetTensorHashRequest.size)
  connection.dialect.writeSetTensorHash(connection.block, at, tensor, offset, low, high)
}

/** OFFER_WEIGHTS, for a server that announced it; its answer has a byte for each. */
export const putOfferedWeights = (
  connection: RpcConnection,
  weights: readonly { weight: { record: Uint8Array }; hash: WeightHash }[],
): void => {
  const { size, offsets } = SetTensorHashRequest
  const { blockView, block } = connection
  const payloadBytes = weights.length * size
  const start = connection.reserve(REQUEST_HEADER_SIZE_BYTES + payloadBytes)
  writeRequestHeader(blockView, start, ExtensionCommand.OFFER_WEIGHTS, payloadBytes)
  let at = start + REQUEST_HEADER_SIZE_BYTES
  for (const { weight, hash } of weights) {
    block.set(weight.record, at + offsets.tensor)
    writeU64FromNumber(blockView, at + offsets.offsetBytes, 0)
    blockView.setUint32(at + offsets.hash, hash.low, true)
    blockView.setUint32(at + offsets.hash + 4, hash.high, true)
    at += size
  }
}

export const putGetTensor = (
  connection: RpcConnection,
  tensor: Uint8Array,
  offset: number,
  sizeBytes: number,
): void => {
  const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + GetTensorRequest.size)
  connection.dialect.writeGetTensor(connection.block, at, tensor, offset, sizeBytes)
}

/** Copies the exchange block's tensor to its other one, on one server: 1 when that did it. */
export const askCopyTensor = (connection: RpcConnection, exchange: Exchange): number => {
  const payload = begin(connection, Command.COPY_TENSOR, 2 * RpcTensor.size)
  connection.block.set(exchange.tensor, payload)
  connection.block.set(exchange.other, payload + RpcTensor.size)
  return connection.roundTrip(Command.COPY_TENSOR, 1)?.[0] ?? 0
}

/**
 * Bytes that the exchange block's tensor takes with its sources; negative when the server gives no number. On the wire:
 * `[u32 device] rpc_tensor [rpc_tensor srcs[10]]`.
 */
export const askAllocSize = (
  connection: RpcConnection,
  exchange: Exchange,
  deviceIndex: number,
): number => {
  const { features, requestBytes } = connection.dialect
  const size = requestBytes[Command.GET_ALLOC_SIZE]!
  const payload = begin(connection, Command.GET_ALLOC_SIZE, size)
  const tensorAt = payload + (features.deviceField ? 4 : 0)
  if (features.deviceField) connection.blockView.setUint32(payload, deviceIndex, true)
  connection.block.set(exchange.tensor, tensorAt)
  const sourcesAt = tensorAt + RpcTensor.size
  if (sourcesAt < payload + size) {
    connection.block.set(exchange.sources, sourcesAt)
  }
  const answer = connection.roundTrip(Command.GET_ALLOC_SIZE, 8)
  if (answer === undefined) return -1
  return readU64AsNumber(new DataView(answer.buffer, answer.byteOffset, 8), 0)
}

/** GRAPH_COMPUTE; ids and records go out from native memory. */
export const putGraphCompute = (
  connection: RpcConnection,
  deviceIndex: number,
  uidLow: number,
  uidHigh: number,
  ids: Address,
  nodeCount: number,
  records: Address,
  tensorCount: number,
): void => {
  const { graph } = connection.dialect
  const view = connection.blockView
  const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + graph.nodeIdsOffset)
  writeRequestHeader(view, at, Command.GRAPH_COMPUTE, graph.sizeBytes(nodeCount, tensorCount))
  graph.writeHead(view, at + REQUEST_HEADER_SIZE_BYTES, deviceIndex, uidLow, uidHigh, nodeCount)
  putNodes(connection, ids, nodeCount, records, tensorCount)
  connection.expectAnswer(Command.GRAPH_COMPUTE)
}

/** What follows the head of a graph. */
const putNodes = (
  connection: RpcConnection,
  ids: Address,
  nodeCount: number,
  records: Address,
  tensorCount: number,
): void => {
  connection.append(ids, nodeCount * 8)
  const countAt = connection.reserve(4)
  connection.blockView.setUint32(countAt, tensorCount, true)
  connection.append(records, tensorCount * RpcTensor.size)
}

/** DEVICE_SUPPORTS, for a server that announced it; its answer has a byte a node. */
export const putDeviceSupports = (
  connection: RpcConnection,
  deviceIndex: number,
  ids: Address,
  nodeCount: number,
  records: Address,
  tensorCount: number,
): void => {
  const { request } = extensionCommands.DEVICE_SUPPORTS
  const view = connection.blockView
  const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + request.nodeIdsOffset)
  const sizeBytes = request.sizeBytes(nodeCount, tensorCount)
  writeRequestHeader(view, at, ExtensionCommand.DEVICE_SUPPORTS, sizeBytes)
  request.writeHead(view, at + REQUEST_HEADER_SIZE_BYTES, deviceIndex, 0, 0, nodeCount)
  putNodes(connection, ids, nodeCount, records, tensorCount)
}

export const putGraphRecompute = (
  connection: RpcConnection,
  deviceIndex: number,
  uidLow: number,
  uidHigh: number,
): void => {
  const { dialect } = connection
  const at = connection.reserve(dialect.graphRecomputeBytes)
  dialect.writeGraphRecompute(connection.block, at, deviceIndex, uidLow, uidHigh)
}

/** ALL_REDUCE of a record, with `AllReduceFlag`s, for a server that is linked with the others; see ServerSums.ts. */
export const putAllReduce = (
  connection: RpcConnection,
  record: Uint8Array,
  flags: number,
): void => {
  const { offsets, size } = AllReduceRequest
  const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + size)
  writeRequestHeader(connection.blockView, at, ExtensionCommand.ALL_REDUCE, size)
  const payload = at + REQUEST_HEADER_SIZE_BYTES
  connection.blockView.setUint32(payload + offsets.flags, flags, true)
  connection.block.set(record, payload + offsets.tensor)
}

/**
 * ALL_REDUCE_DEVICES of the records of `members`, behind an encoded `AllReduceDevicesHead`, for a server that knows it, and is linked with
 * the others where there are any; see ServerSums.ts.
 */
export const putAllReduceDevices = (
  connection: RpcConnection,
  head: Uint8Array,
  records: ReadonlyArray<Uint8Array>,
  members: ReadonlyArray<number>,
): void => {
  const sizeBytes = head.length + members.length * RpcTensor.size
  const at = connection.reserve(REQUEST_HEADER_SIZE_BYTES + sizeBytes)
  writeRequestHeader(connection.blockView, at, ExtensionCommand.ALL_REDUCE_DEVICES, sizeBytes)
  const payload = at + REQUEST_HEADER_SIZE_BYTES
  connection.block.set(head, payload)
  let next = payload + head.length
  for (const member of members) {
    connection.block.set(records[member]!, next)
    next += RpcTensor.size
  }
}

/** Asks something that needs no work, after what came before: the answer comes when all of that is done. */
export const putFence = (connection: RpcConnection): void => {
  if (connection.dialect.has("DEVICE_COUNT")) connection.post(Command.DEVICE_COUNT, {})
  else connection.post(Command.GET_ALIGNMENT, { device: 0 })
}

/** Waits for the answer to `putFence`. */
export const awaitFence = (connection: RpcConnection): void => {
  const { dialect } = connection
  const command = dialect.has("DEVICE_COUNT") ? Command.DEVICE_COUNT : Command.GET_ALIGNMENT
  connection.roundTrip(command, dialect.responseBytes[command]!)
}
