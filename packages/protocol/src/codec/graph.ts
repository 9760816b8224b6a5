import { ProtocolError } from "../errors.ts"
import type { PayloadCodec } from "./payload.ts"
import { RpcTensor } from "./tensor.ts"

/** One GRAPH_COMPUTE; ggml-rpc.cpp `serialize_graph` (8.0.0). */
export interface GraphComputeRequest {
  /** Device index; 0 on the wire of versions that know one device. */
  readonly device: number
  /**
   * Under which GRAPH_RECOMPUTE finds it again; 0 or absent: it is not stored. Versions before 8.0.0 leave it out, and
   * decode as 0.
   */
  readonly uid?: bigint
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

const COUNT_SIZE = 4
const ID_SIZE = 8

/** What comes before the node count of a GRAPH_COMPUTE payload. */
export interface GraphHead {
  /** `u32 device` */
  readonly hasDevice: boolean
  /** `u64 uid`, after the device. */
  readonly hasUid: boolean
}

/** `[u32 device] [u64 uid] u32 N, u64 id[N], u32 M, rpc_tensor tensor[M]`. */
export class GraphFormat implements PayloadCodec<GraphComputeRequest> {
  readonly name = "GraphComputeRequest"
  readonly maxSizeBytes: number = Number.MAX_SAFE_INTEGER
  readonly head: GraphHead
  /** Offset of the uid in the payload; -1 without one. */
  readonly uidOffset: number
  readonly nodeCountOffset: number
  readonly nodeIdsOffset: number
  /** The smallest payload: no node, no tensor. */
  readonly minSizeBytes: number
  readonly #command: string

  /** `command`: what errors name. */
  constructor(head: GraphHead, command = "GRAPH_COMPUTE") {
    this.head = head
    this.#command = command
    this.uidOffset = head.hasUid ? 4 : -1
    this.nodeCountOffset = (head.hasDevice ? 4 : 0) + (head.hasUid ? 8 : 0)
    this.nodeIdsOffset = this.nodeCountOffset + COUNT_SIZE
    this.minSizeBytes = this.nodeIdsOffset + COUNT_SIZE
  }

  /** Payload bytes of a graph. */
  sizeBytes(nodeCount: number, tensorCount: number): number {
    return this.minSizeBytes + nodeCount * ID_SIZE + tensorCount * RpcTensor.size
  }

  /**
   * Checks the counts of a payload against its size and says where the parts are; looks at nothing else and allocates
   * nothing per node. `payloadSize` bytes of the view count, from `offset`.
   *
   * Throws `ProtocolError` when the payload is shorter than its counts say. Two u32 counts times 8 and 296 stay below
   * 2^41, so plain numbers are exact.
   */
  parse(view: DataView, payloadSize: number, offset = 0): GraphLayout {
    if (offset < 0 || payloadSize > view.byteLength - offset) {
      throw this.#error(
        "payload_size",
        `exceeds the ${view.byteLength - offset} bytes present`,
        payloadSize,
      )
    }
    if (!(payloadSize >= this.minSizeBytes)) {
      throw this.#error("payload_size", `must be at least ${this.minSizeBytes}`, payloadSize)
    }
    const { nodeIdsOffset } = this
    const device = this.head.hasDevice ? view.getUint32(offset, true) : 0
    const nodeCount = view.getUint32(offset + this.nodeCountOffset, true)
    const tensorCountOffset = nodeIdsOffset + nodeCount * ID_SIZE
    if (tensorCountOffset + COUNT_SIZE > payloadSize) {
      throw this.#error("n_nodes", `does not fit a payload of ${payloadSize} bytes`, nodeCount)
    }
    const tensorCount = view.getUint32(offset + tensorCountOffset, true)
    const tensorsOffset = tensorCountOffset + COUNT_SIZE
    const trailingBytes = payloadSize - tensorsOffset - tensorCount * RpcTensor.size
    if (trailingBytes < 0) {
      throw this.#error("n_tensors", `does not fit a payload of ${payloadSize} bytes`, tensorCount)
    }
    return { device, nodeCount, nodeIdsOffset, tensorCount, tensorsOffset, trailingBytes }
  }

  /**
   * Writes what comes before the node ids: device, uid in halves, node count. Returns the offset of the first id; the ids,
   * a u32 count of tensors and the tensors are to follow.
   */
  writeHead(
    view: DataView,
    offset: number,
    device: number,
    uidLow: number,
    uidHigh: number,
    nodeCount: number,
  ): number {
    if (this.head.hasDevice) view.setUint32(offset, device, true)
    if (this.uidOffset >= 0) {
      view.setUint32(offset + this.uidOffset, uidLow, true)
      view.setUint32(offset + this.uidOffset + 4, uidHigh, true)
    }
    view.setUint32(offset + this.nodeCountOffset, nodeCount, true)
    return offset + this.nodeIdsOffset
  }

  sizeOf(value: GraphComputeRequest): number {
    return this.sizeBytes(value.nodes.length, value.tensors.length)
  }

  encode(value: GraphComputeRequest, view: DataView, offset: number): void {
    const { device, nodes, tensors, uid = 0n } = value
    if (!Number.isInteger(device) || device < 0 || device > 0xffff_ffff) {
      throw this.#error("device", "must be an integer from 0 to 4294967295", device)
    }
    if (!this.head.hasDevice && device !== 0) {
      throw this.#error("device", "must be 0 in this version", device)
    }
    RpcTensor.fields.id.encode(uid, scratch, 0, "uid")
    const uidLow = scratch.getUint32(0, true)
    const uidHigh = scratch.getUint32(4, true)
    const idsAt = this.writeHead(view, offset, device, uidLow, uidHigh, nodes.length)
    for (const [index, id] of nodes.entries()) {
      RpcTensor.fields.id.encode(id, view, idsAt + index * ID_SIZE, "nodes")
    }
    const countAt = idsAt + nodes.length * ID_SIZE
    view.setUint32(countAt, tensors.length, true)
    for (const [index, tensor] of tensors.entries()) {
      RpcTensor.encode(tensor, view, countAt + COUNT_SIZE + index * RpcTensor.size)
    }
  }

  decode(view: DataView, offset: number, sizeBytes: number): GraphComputeRequest {
    const layout = this.parse(view, sizeBytes, offset)
    const nodes: bigint[] = []
    for (let index = 0; index < layout.nodeCount; index++) {
      nodes.push(view.getBigUint64(offset + layout.nodeIdsOffset + index * ID_SIZE, true))
    }
    const tensors: RpcTensor[] = []
    for (let index = 0; index < layout.tensorCount; index++) {
      tensors.push(RpcTensor.decode(view, offset + layout.tensorsOffset + index * RpcTensor.size))
    }
    const uid = this.uidOffset < 0 ? 0n : view.getBigUint64(offset + this.uidOffset, true)
    return { device: layout.device, uid, nodes, tensors }
  }

  #error(field: string, reason: string, value?: number): ProtocolError {
    return new ProtocolError({ command: this.#command, field, reason, value })
  }
}

const scratch = new DataView(new ArrayBuffer(8))
