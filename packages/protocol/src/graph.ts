import { ProtocolError } from "./errors.ts"
import type { PayloadCodec } from "./payload.ts"
import { RpcTensor } from "./tensor.ts"

/** One GRAPH_COMPUTE; ggml-rpc.cpp `serialize_graph` (7.0.0). */
export interface GraphComputeRequest {
  /** Device index. */
  readonly device: number
  /** Tensor ids in execution order. Only these are computed. */
  readonly nodes: readonly bigint[]
  /** Every tensor reachable from the nodes, each once; more than the nodes. */
  readonly tensors: readonly RpcTensor[]
}

/** Where the parts of a GRAPH_COMPUTE payload lie; offsets in bytes from the start of the payload. */
export interface GraphLayout {
  readonly device: number
  readonly nodeCount: number
  /** The first of `nodeCount` u64 ids. */
  readonly nodeIdsOffset: number
  readonly tensorCount: number
  /** The first of `tensorCount` records of 296 bytes. */
  readonly tensorsOffset: number
  /** Bytes after the last tensor; upstream's server ignores them. */
  readonly trailingBytes: number
}

/** `u32 device, u32 nodeCount`. */
const NODE_IDS_OFFSET = 8
const COUNT_SIZE = 4
const ID_SIZE = 8

/** The smallest GRAPH_COMPUTE payload: no node, no tensor. */
export const GRAPH_MIN_SIZE_BYTES = NODE_IDS_OFFSET + COUNT_SIZE

/** Payload bytes of a graph. */
export const graphSizeBytes = (nodeCount: number, tensorCount: number): number =>
  GRAPH_MIN_SIZE_BYTES + nodeCount * ID_SIZE + tensorCount * RpcTensor.size

const graphError = (field: string, reason: string, value?: number): ProtocolError =>
  new ProtocolError({ command: "GRAPH_COMPUTE", field, reason, value })

/**
 * Checks the counts of a GRAPH_COMPUTE payload against its size and says where the parts are; looks at nothing else and
 * allocates nothing per node. `payloadSize` bytes of the view count, from `offset`.
 *
 * Throws `ProtocolError` when the payload is shorter than its counts say. Two u32 counts times 8 and 296 stay below 2^41,
 * so plain numbers are exact.
 */
export const parseGraphHeader = (view: DataView, payloadSize: number, offset = 0): GraphLayout => {
  if (offset < 0 || payloadSize > view.byteLength - offset) {
    throw graphError(
      "payload_size",
      `exceeds the ${view.byteLength - offset} bytes present`,
      payloadSize,
    )
  }
  if (!(payloadSize >= GRAPH_MIN_SIZE_BYTES)) {
    throw graphError("payload_size", `must be at least ${GRAPH_MIN_SIZE_BYTES}`, payloadSize)
  }
  const device = view.getUint32(offset, true)
  const nodeCount = view.getUint32(offset + 4, true)
  const tensorCountOffset = NODE_IDS_OFFSET + nodeCount * ID_SIZE
  if (tensorCountOffset + COUNT_SIZE > payloadSize) {
    throw graphError("n_nodes", `does not fit a payload of ${payloadSize} bytes`, nodeCount)
  }
  const tensorCount = view.getUint32(offset + tensorCountOffset, true)
  const tensorsOffset = tensorCountOffset + COUNT_SIZE
  const trailingBytes = payloadSize - tensorsOffset - tensorCount * RpcTensor.size
  if (trailingBytes < 0) {
    throw graphError("n_tensors", `does not fit a payload of ${payloadSize} bytes`, tensorCount)
  }
  return {
    device,
    nodeCount,
    nodeIdsOffset: NODE_IDS_OFFSET,
    tensorCount,
    tensorsOffset,
    trailingBytes,
  }
}

/**
 * Writes `device`, `nodeCount`, and `tensorCount` of a GRAPH_COMPUTE payload whose ids and tensors the caller fills in by
 * itself at the returned offsets. The view must hold `graphSizeBytes(nodeCount, tensorCount)` bytes at `offset`.
 * Returns the offset of the first tensor record in the view; ids start 8 bytes after `offset`.
 */
export const writeGraphCounts = (
  view: DataView,
  offset: number,
  device: number,
  nodeCount: number,
  tensorCount: number,
): number => {
  view.setUint32(offset, device, true)
  view.setUint32(offset + 4, nodeCount, true)
  const tensorCountOffset = offset + NODE_IDS_OFFSET + nodeCount * ID_SIZE
  view.setUint32(tensorCountOffset, tensorCount, true)
  return tensorCountOffset + COUNT_SIZE
}

const requireU32 = (field: string, value: number): void => {
  if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff) {
    throw graphError(field, "must be an integer from 0 to 4294967295", value)
  }
}

/** `u32 device, u32 N, u64 id[N], u32 M, rpc_tensor tensor[M]`. */
export const graphCompute: PayloadCodec<GraphComputeRequest> = {
  name: "GraphComputeRequest",
  minSizeBytes: GRAPH_MIN_SIZE_BYTES,
  maxSizeBytes: Number.MAX_SAFE_INTEGER,
  sizeOf: (value) => graphSizeBytes(value.nodes.length, value.tensors.length),
  encode(value, view, offset) {
    requireU32("device", value.device)
    const { device, nodes, tensors } = value
    const tensorsAt = writeGraphCounts(view, offset, device, nodes.length, tensors.length)
    nodes.forEach((id, index) => {
      RpcTensor.fields.id.encode(id, view, offset + NODE_IDS_OFFSET + index * ID_SIZE, "nodes")
    })
    tensors.forEach((tensor, index) => {
      RpcTensor.encode(tensor, view, tensorsAt + index * RpcTensor.size)
    })
  },
  decode(view, offset, sizeBytes) {
    const layout = parseGraphHeader(view, sizeBytes, offset)
    const nodes: bigint[] = []
    for (let index = 0; index < layout.nodeCount; index++) {
      nodes.push(view.getBigUint64(offset + layout.nodeIdsOffset + index * ID_SIZE, true))
    }
    const tensors: RpcTensor[] = []
    for (let index = 0; index < layout.tensorCount; index++) {
      tensors.push(RpcTensor.decode(view, offset + layout.tensorsOffset + index * RpcTensor.size))
    }
    return { device: layout.device, nodes, tensors }
  },
}
