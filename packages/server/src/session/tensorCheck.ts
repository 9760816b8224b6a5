import {
  CALLBACK_OPS,
  opId,
  ProtocolError,
  RpcTensor,
  readU64AsNumber,
  TYPE_BLOCK_SIZE,
  TYPE_SIZE,
  tensorByteSize,
  V7_0_0,
} from "@ggml-rpc/protocol"
import type { Buffers, SessionBuffer } from "./buffers.ts"

const { offsets } = RpcTensor

const OP_COUNT = V7_0_0.ops.length
const OP_UNARY = opId("UNARY")
const OP_GLU = opId("GLU")

/** By op id: 1 for the operations that carry function pointers of the sender. */
const isCallback = new Uint8Array(OP_COUNT)
for (const name of CALLBACK_OPS) isCallback[opId(name)] = 1

/** What became of a tensor's `buffer` field. */
export type BufferRule =
  /** Must name a buffer. */
  | "required"
  /** 0, or a buffer; without one `data` must be 0. */
  | "optional"
  /** Anything that names no buffer counts as none, as a client sends tensors of other servers here. */
  | "lenient"

/** Refuses a request; `field` may be the tensor's name and a field of it. */
export const refuse: (
  field: string,
  reason: string,
  value?: number | bigint | string | undefined,
) => never = (field, reason, value) => {
  throw new ProtocolError({ field, reason, value })
}

const refuseU64 = (view: DataView, offset: number, field: string, reason: string): never =>
  refuse(field, reason, `0x${view.getBigUint64(offset, true).toString(16)}`)

/**
 * Checks one encoded tensor of a client against all that needs no other tensor: type, shape, strides,
 * operation, buffer, and that every byte its strides can reach lies inside its buffer. ggml checks none
 * of this, and asserts on some of it, which would end the process.
 *
 * One checker serves a session: `check` leaves what it found in the fields instead of allocating.
 */
export class TensorCheck {
  readonly #buffers: Buffers
  /** `ggml_nbytes` of the tensor. */
  sizeBytes = 0
  /** Where in the buffer its data starts, in bytes. */
  dataOffsetBytes = 0
  buffer: SessionBuffer | undefined

  constructor(buffers: Buffers) {
    this.#buffers = buffers
  }

  /**
   * Checks the tensor at `at`; `name` is what a refusal calls it.
   *
   * @throws {ProtocolError}
   */
  check(view: DataView, at: number, name: string, rule: BufferRule): void {
    const reachBytes = this.#checkShape(view, at, name)
    checkOperation(view, at, name)
    const buffer = this.#buffers.find(view, at + offsets.buffer)
    this.buffer = buffer
    if (buffer === undefined) {
      this.dataOffsetBytes = 0
      if (rule !== "lenient") checkNoBuffer(view, at, name, rule)
      return
    }
    const data = readU64AsNumber(view, at + offsets.data)
    const start = data - buffer.base
    if (data < 0 || start < 0 || start > buffer.sizeBytes) {
      refuseU64(
        view,
        at + offsets.data,
        `${name}.data`,
        `lies outside its buffer of ${buffer.sizeBytes} bytes at 0x${buffer.base.toString(16)}`,
      )
    }
    if (reachBytes > buffer.sizeBytes - start) {
      refuse(
        `${name}.nb`,
        `reaches ${reachBytes} bytes where the buffer has ${buffer.sizeBytes - start} left`,
        describeShape(view, at),
      )
    }
    this.dataOffsetBytes = start
  }

  /** Bytes from `data` that reading or writing the tensor can touch. */
  #checkShape(view: DataView, at: number, name: string): number {
    const type = view.getUint32(at + offsets.type, true)
    const blockSize = type < TYPE_BLOCK_SIZE.length ? TYPE_BLOCK_SIZE[type]! : 0
    if (blockSize === 0) refuse(`${name}.type`, "is no type of ggml", type)
    const ne0 = view.getUint32(at + offsets.ne, true)
    if (ne0 % blockSize !== 0) {
      refuse(`${name}.ne[0]`, `must be a multiple of the type's block size ${blockSize}`, ne0)
    }
    // A product beyond 2^53 cannot be memory, and overflows ggml's own arithmetic soon after.
    const elements =
      ne0 *
      view.getUint32(at + offsets.ne + 4, true) *
      view.getUint32(at + offsets.ne + 8, true) *
      view.getUint32(at + offsets.ne + 12, true)
    if (elements > Number.MAX_SAFE_INTEGER) {
      refuse(`${name}.ne`, "has more than 2^53 elements", describeShape(view, at))
    }
    const sizeBytes = tensorByteSize(view, at)
    if (sizeBytes < 0) {
      refuse(`${name}.nb`, "makes a size of 2^53 bytes or more", describeShape(view, at))
    }
    this.sizeBytes = sizeBytes
    if (elements === 0) return 0
    // Kernels that assume dense rows read this much of the last row whatever nb[0] says.
    const typeSize = TYPE_SIZE[type]!
    const nb0 = view.getUint32(at + offsets.nb, true)
    const rowBytes = blockSize === 1 ? typeSize + (ne0 - 1) * nb0 : (ne0 / blockSize) * nb0
    const denseBytes = (ne0 / blockSize) * typeSize
    return denseBytes > rowBytes ? sizeBytes + (denseBytes - rowBytes) : sizeBytes
  }

  /** Checks that `[offset, offset + size)` lies within the tensor that `check` looked at last. */
  checkRange(offsetBytes: number, sizeBytes: number, offsetField: string, sizeField: string): void {
    if (offsetBytes < 0 || offsetBytes > this.sizeBytes) {
      refuse(offsetField, `lies outside the tensor's ${this.sizeBytes} bytes`, known(offsetBytes))
    }
    if (sizeBytes < 0 || sizeBytes > this.sizeBytes - offsetBytes) {
      refuse(
        sizeField,
        `exceeds the ${this.sizeBytes - offsetBytes} bytes of the tensor after offset ${offsetBytes}`,
        known(sizeBytes),
      )
    }
  }
}

/** readU64AsNumber gives -1 for what a number cannot hold. */
const known = (value: number): number | string => (value < 0 ? "2^53 or more" : value)

const checkNoBuffer = (view: DataView, at: number, name: string, rule: BufferRule): void => {
  const bufferAt = at + offsets.buffer
  const isZero = view.getUint32(bufferAt, true) === 0 && view.getUint32(bufferAt + 4, true) === 0
  if (!isZero || rule === "required") {
    refuseU64(view, bufferAt, `${name}.buffer`, "is no buffer of this connection")
  }
  const dataAt = at + offsets.data
  if (view.getUint32(dataAt, true) !== 0 || view.getUint32(dataAt + 4, true) !== 0) {
    refuseU64(view, dataAt, `${name}.data`, "must be 0 for a tensor without a buffer")
  }
}

const checkOperation = (view: DataView, at: number, name: string): void => {
  const op = view.getUint32(at + offsets.op, true)
  if (op >= OP_COUNT) refuse(`${name}.op`, `must be below ${OP_COUNT}`, op)
  if (isCallback[op] !== 0) {
    refuse(`${name}.op`, "calls a function of the client, which is never run", V7_0_0.ops[op])
  }
  if (op === OP_UNARY) checkKind(view, at, name, V7_0_0.unaryOps)
  else if (op === OP_GLU) checkKind(view, at, name, V7_0_0.gluOps)
}

const checkKind = (view: DataView, at: number, name: string, kinds: readonly string[]): void => {
  const kind = view.getUint32(at + offsets.opParams, true)
  if (kind >= kinds.length) refuse(`${name}.op_params[0]`, `must be below ${kinds.length}`, kind)
}

/** `ne[4096,32,1,1] nb[4,16384,524288,524288]`. */
export const describeShape = (view: DataView, at: number): string => {
  const four = (offset: number): string =>
    [0, 4, 8, 12].map((step) => view.getUint32(at + offset + step, true)).join(",")
  return `ne[${four(offsets.ne)}] nb[${four(offsets.nb)}]`
}
