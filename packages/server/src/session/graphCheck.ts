import { ptr } from "bun:ffi"
import {
  opId,
  ProtocolError,
  parseGraphHeader,
  RpcTensor,
  readU64AsNumber,
  TensorFlag,
  tensorByteSize,
  V7_0_0,
  writeU64FromNumber,
} from "@ggml-rpc/protocol"
import type { Buffers, SessionBuffer } from "./buffers.ts"
import { IdTable } from "./idTable.ts"
import { refuse, TensorCheck } from "./tensorCheck.ts"

const { offsets, size: RECORD_SIZE } = RpcTensor
const SOURCE_COUNT = 10
/** The children of a tensor: its sources, then its view source. `view_src` follows `src` in the record. */
const CHILD_COUNT = SOURCE_COUNT + 1

/** Operations that run no kernel: they may name tensors that have no memory here. */
const isPassive = new Uint8Array(V7_0_0.ops.length)
for (const name of ["NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE"]) isPassive[opId(name)] = 1

/**
 * By op id: how many leading sources its kernels read without looking whether they are there; ggml.c's
 * constructors (7.0.0).
 */
const sourcesNeeded = new Uint8Array(V7_0_0.ops.length).fill(1)
const needs: readonly (readonly [count: number, names: string])[] = [
  [0, "NONE ARANGE"],
  [
    2,
    "ADD ADD1 ACC SUB MUL DIV COUNT_EQUAL CONCAT SILU_BACK RMS_NORM_BACK MUL_MAT OUT_PROD SET GET_ROWS \
GET_ROWS_BACK SET_ROWS SOFT_MAX_BACK ROPE ROPE_BACK CONV_TRANSPOSE_1D IM2COL IM2COL_BACK IM2COL_3D CONV_2D CONV_3D \
CONV_2D_DW CONV_TRANSPOSE_2D POOL_2D_BACK SSM_CONV SOLVE_TRI CROSS_ENTROPY_LOSS DSV4_HC_PRE",
  ],
  [
    3,
    "ADD_ID MUL_MAT_ID FLASH_ATTN_EXT ADD_REL_POS CROSS_ENTROPY_LOSS_BACK OPT_STEP_SGD DSV4_HC_COMB DSV4_HC_POST LIGHTNING_INDEXER",
  ],
  [4, "FLASH_ATTN_BACK"],
  [5, "GATED_LINEAR_ATTN OPT_STEP_ADAMW"],
  [6, "RWKV_WKV6 GATED_DELTA_NET"],
  [7, "RWKV_WKV7 SSM_SCAN"],
]
for (const [count, names] of needs) {
  for (const name of names.split(" ")) sourcesNeeded[opId(name)] = count
}

const WHITE = 0
/** On the stack: its sources are being looked at. */
const GREY = 1
const BLACK = 2

/**
 * Checks a GRAPH_COMPUTE payload and turns it, in place, into what the shim builds a graph from:
 * references become record indexes, buffers and data become native addresses, and records that no node
 * reaches get id 0. Keeps its tables between graphs; allocates nothing per tensor.
 */
export class GraphCheck {
  readonly #tensor: TensorCheck
  readonly #ids = new IdTable()
  #colors = new Uint8Array(0)
  #stack = new Int32Array(0)
  /** By record: the next child to look at, while the record is grey. */
  #cursors = new Uint8Array(0)
  #bufferOf: Array<SessionBuffer | undefined> = []
  #view: DataView = new DataView(new ArrayBuffer(0))
  #start = 0
  /** The record that is being checked. */
  #current = 0

  device = 0
  /** 1-based indexes of the nodes' records, in execution order; the first `nodeCount` count. */
  nodes = new Uint32Array(1024)
  nodesAddress = ptr(this.nodes) as number
  nodeCount = 0
  tensorCount = 0
  /** Where in the view the records start. */
  recordsOffset = 0
  /** Handles of the buffers that the graph reads or writes. */
  usedBuffers = new Set<number>()

  constructor(buffers: Buffers) {
    this.#tensor = new TensorCheck(buffers)
  }

  /**
   * Checks and rewrites the payload of `sizeBytes` at the start of the view. The fields above describe it
   * afterwards.
   *
   * @throws {ProtocolError}
   */
  prepare(view: DataView, sizeBytes: number, deviceCount: number): void {
    const layout = parseGraphHeader(view, sizeBytes)
    if (layout.device >= deviceCount) {
      refuse("device", `must be below the device count ${deviceCount}`, layout.device)
    }
    this.#view = view
    this.#start = layout.tensorsOffset
    this.device = layout.device
    this.nodeCount = layout.nodeCount
    this.tensorCount = layout.tensorCount
    this.recordsOffset = layout.tensorsOffset
    this.usedBuffers = new Set()
    this.#reserve(layout.nodeCount, layout.tensorCount)
    this.#ids.fill(view, this.#start + offsets.id, RECORD_SIZE, layout.tensorCount)
    try {
      for (let node = 0; node < layout.nodeCount; node++) {
        this.#visitNode(node, layout.nodeIdsOffset + node * 8)
      }
    } catch (error) {
      throw error instanceof ProtocolError ? this.#located(error) : error
    }
    this.#dropUnreached()
    this.#bufferOf.length = 0
  }

  /** Names the record in a refusal of the tensor check, which only says `tensor`. */
  #located(error: ProtocolError): ProtocolError {
    if (!error.field.startsWith("tensor.")) return error
    const { reason, value } = error
    const field = `tensors[${this.#current}]${error.field.slice("tensor".length)}`
    return new ProtocolError({ field, reason, value })
  }

  #reserve(nodeCount: number, tensorCount: number): void {
    if (this.nodes.length < nodeCount) {
      this.nodes = new Uint32Array(nodeCount)
      this.nodesAddress = ptr(this.nodes) as number
    }
    if (this.#colors.length < tensorCount) {
      this.#colors = new Uint8Array(tensorCount)
      this.#cursors = new Uint8Array(tensorCount)
      this.#stack = new Int32Array(tensorCount)
    } else {
      this.#colors.fill(WHITE, 0, tensorCount)
    }
  }

  #visitNode(node: number, idAt: number): void {
    const low = this.#view.getUint32(idAt, true)
    const high = this.#view.getUint32(idAt + 4, true)
    if (low === 0 && high === 0) refuse(`nodes[${node}]`, "must not be 0")
    const index = this.#ids.find(low, high)
    if (index < 0) {
      refuse(`nodes[${node}]`, "is not among the tensors", this.#id(idAt))
    }
    this.nodes[node] = index + 1
    if (this.#colors[index] === WHITE) this.#reach(index)
    const at = this.#start + index * RECORD_SIZE
    if ((this.#view.getInt32(at + offsets.flags, true) & TensorFlag.COMPUTE) !== 0) {
      this.#checkComputed(node, index)
    }
  }

  /** Visits everything below a record, sources before users, with a stack of its own. */
  #reach(root: number): void {
    const colors = this.#colors
    const stack = this.#stack
    let depth = 0
    this.#enter(root)
    stack[depth++] = root
    while (depth > 0) {
      const index = stack[depth - 1]!
      const child = this.#cursors[index]!
      if (child === CHILD_COUNT) {
        colors[index] = BLACK
        this.#leave(index)
        depth--
        continue
      }
      this.#cursors[index] = child + 1
      const next = this.#resolve(index, child)
      if (next < 0) continue
      if (colors[next] === WHITE) {
        this.#enter(next)
        stack[depth++] = next
      }
    }
  }

  /** Checks a record and puts native addresses into it. */
  #enter(index: number): void {
    const view = this.#view
    const at = this.#start + index * RECORD_SIZE
    const tensor = this.#tensor
    this.#current = index
    tensor.check(view, at, "tensor", "optional")
    const buffer = tensor.buffer
    this.#bufferOf[index] = buffer
    if (buffer !== undefined) {
      this.usedBuffers.add(buffer.id)
      writeU64FromNumber(view, at + offsets.buffer, buffer.native)
      writeU64FromNumber(view, at + offsets.data, buffer.nativeBase + tensor.dataOffsetBytes)
    }
    this.#colors[index] = GREY
    this.#cursors[index] = 0
  }

  /** Replaces a reference by the 1-based index of its record; returns a record to visit, or -1. */
  #resolve(index: number, child: number): number {
    const view = this.#view
    const at = this.#start + index * RECORD_SIZE + offsets.src + child * 8
    const low = view.getUint32(at, true)
    const high = view.getUint32(at + 4, true)
    if (low === 0 && high === 0) return -1
    const found = this.#ids.find(low, high)
    if (found < 0) {
      refuse(this.#childName(index, child), "is not among the tensors", this.#id(at))
    }
    if (this.#colors[found] === GREY) {
      // A cast names itself as its second source; every other cycle would have no first tensor.
      if (found !== index || child === SOURCE_COUNT) {
        refuse(this.#childName(index, child), "closes a cycle", this.#id(at))
      }
    }
    view.setUint32(at, found + 1, true)
    view.setUint32(at + 4, 0, true)
    return found
  }

  /** What can only be said of a record once the one it views is known. */
  #leave(index: number): void {
    const view = this.#view
    const at = this.#start + index * RECORD_SIZE
    const viewed = view.getUint32(at + offsets.viewSrc, true) - 1
    if (viewed < 0) return
    const buffer = this.#bufferOf[viewed]
    if (buffer === undefined || this.#bufferOf[index] === undefined) return
    // Some backends address a view by its source and `view_offs` instead of by `data`.
    const viewOffset = readU64AsNumber(view, at + offsets.viewOffset)
    const viewedAt = this.#start + viewed * RECORD_SIZE
    const start = readU64AsNumber(view, viewedAt + offsets.data) - buffer.nativeBase
    if (viewOffset < 0 || start + viewOffset + tensorByteSize(view, at) > buffer.sizeBytes) {
      const where = `tensors[${index}].view_offs`
      refuse(
        where,
        `leads out of the ${buffer.sizeBytes} bytes of the viewed tensor's buffer`,
        viewOffset < 0 ? "2^53 or more" : viewOffset,
      )
    }
  }

  /** A node that will run needs memory for its result and for all that it reads. */
  #checkComputed(node: number, index: number): void {
    const view = this.#view
    const at = this.#start + index * RECORD_SIZE
    const op = view.getUint32(at + offsets.op, true)
    if (isPassive[op] !== 0) return
    if (this.#lacksMemory(index)) {
      refuse(`tensors[${index}].buffer`, `is 0, but node ${node} computes this tensor`)
    }
    for (let source = 0; source < SOURCE_COUNT; source++) {
      const child = view.getUint32(at + offsets.src + source * 8, true) - 1
      if (child < 0) {
        if (source < sourcesNeeded[op]!) {
          refuse(
            `tensors[${index}].src[${source}]`,
            `is 0, but ${V7_0_0.ops[op]} needs ${sourcesNeeded[op]} sources`,
          )
        }
      } else if (this.#lacksMemory(child)) {
        refuse(`tensors[${child}].buffer`, `is 0, but node ${node} reads this tensor`)
      }
    }
  }

  #lacksMemory(index: number): boolean {
    if (this.#bufferOf[index] !== undefined) return false
    return tensorByteSize(this.#view, this.#start + index * RECORD_SIZE) > 0
  }

  #dropUnreached(): void {
    for (let index = 0; index < this.tensorCount; index++) {
      if (this.#colors[index] !== WHITE) continue
      writeU64FromNumber(this.#view, this.#start + index * RECORD_SIZE + offsets.id, 0)
    }
  }

  #childName(index: number, child: number): string {
    return `tensors[${index}].${child === SOURCE_COUNT ? "view_src" : `src[${child}]`}`
  }

  #id(at: number): string {
    return `0x${this.#view.getBigUint64(at, true).toString(16)}`
  }
}
