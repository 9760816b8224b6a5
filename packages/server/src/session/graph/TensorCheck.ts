import { type Dialect, formatVersion, TYPE_BLOCK_SIZE, TYPE_SIZE } from "@ggml-rpc/protocol"
import { refuse } from "../errors.ts"
import type { Buffers, SessionBuffer } from "../memory/buffers.ts"
import { loadedOpId } from "../spoken.ts"
import { byteSize, hexU64, isZeroU64, readU64, type Words, word, writeU64 } from "./tensorWords.ts"

const OP_UNARY = loadedOpId("UNARY")
const OP_GLU = loadedOpId("GLU")

/** What a tensor's `buffer` field may be. */
export type BufferRule =
  /** A buffer: its bytes are read or written. */
  | "required"
  /** 0, or a buffer; without one `data` must be 0. */
  | "optional"
  /** Only shapes matter. Anything that names no buffer counts as none, as clients send tensors of other servers here. */
  | "lenient"

/**
 * Checks one encoded tensor of a client against all that needs no other tensor: type, shape, strides,
 * operation, buffer, and that every byte its strides can reach lies inside its buffer. ggml checks none
 * of this, or asserts on it, which would end the process.
 *
 * One checker serves a session: `check` leaves what it found in the fields instead of allocating.
 */
export class TensorCheck {
  readonly #buffers: Buffers
  /** `ggml_nbytes` of the tensor. */
  sizeBytes = 0
  /** Bytes from its data on that reading or writing the tensor can touch. */
  reachBytes = 0
  /** Where in the buffer its data starts, in bytes. */
  dataOffsetBytes = 0
  buffer: SessionBuffer | undefined
  /** Whose ids the tensors have. */
  dialect: Dialect
  /** Whether the client's numbers may be those of another dialect as well. */
  isAmbiguous = false

  constructor(buffers: Buffers, dialect: Dialect) {
    this.#buffers = buffers
    this.dialect = dialect
  }

  /**
   * Checks the tensor at word `at`, once, and translates its numbers; `name` is what a refusal calls it.
   *
   * @throws {ProtocolError}
   */
  check(words: Words, at: number, name: string, rule: BufferRule): void {
    const reachBytes = this.#checkShape(words, at, name)
    this.reachBytes = reachBytes
    this.#takeOperation(words, at, name, rule === "optional")
    const buffer = this.#buffers.find(words, at + word.buffer)
    this.buffer = buffer
    if (buffer === undefined) {
      this.dataOffsetBytes = 0
      if (rule !== "lenient") checkNoBuffer(words, at, name, rule)
      return
    }
    const data = readU64(words, at + word.data)
    const start = data - buffer.base
    if (data < 0 || start < 0 || start > buffer.sizeBytes) {
      if (this.sizeBytes === 0) {
        this.#putAtStart(words, at)
        return
      }
      refuse(
        `${name}.data`,
        `lies outside its buffer of ${buffer.sizeBytes} bytes at 0x${buffer.base.toString(16)}`,
        hexU64(words, at + word.data),
      )
    }
    if (reachBytes > buffer.sizeBytes - start) {
      refuse(
        `${name}.nb`,
        `reaches ${reachBytes} bytes where the buffer has ${buffer.sizeBytes - start} left`,
        describeShape(words, at),
      )
    }
    this.dataOffsetBytes = start
  }

  /**
   * An empty tensor has its place as a view, and a client with `-sm tensor` views what its device has no part of, with the offset
   * of the whole: nothing of it is ever touched, so it is put where its buffer begins.
   */
  #putAtStart(words: Words, at: number): void {
    writeU64(words, at + word.viewSrc, 0)
    writeU64(words, at + word.viewOffset, 0)
    this.dataOffsetBytes = 0
  }

  /**
   * Puts the loaded ggml's numbers in place of the client's. In a graph they must be known; how a tensor came about that is
   * only written or read does not matter, so there one that is not known is NONE.
   */
  #takeOperation(words: Words, at: number, name: string, isGraph: boolean): void {
    const { ops, unaryOps, gluOps } = this.dialect
    const { fromWire } = ops
    const wire = words[at + word.op]!
    if (wire >= fromWire.length) refuse(`${name}.op`, `must be below ${fromWire.length}`, wire)
    const op = fromWire[wire]!
    if (!isGraph && (this.isAmbiguous || op < 0)) {
      words[at + word.op] = 0
      return
    }
    if (op < 0) this.#refuseOperation(name, wire)
    words[at + word.op] = op
    if (op === OP_UNARY) takeKind(words, at, name, unaryOps.fromWire)
    else if (op === OP_GLU) takeKind(words, at, name, gluOps.fromWire)
  }

  #refuseOperation(name: string, wire: number): never {
    const { numbering, version } = this.dialect
    refuse(
      `${name}.op`,
      `means something else in protocol ${formatVersion(version)} than it does here, and is not run`,
      numbering.ops[wire] || wire,
    )
  }

  /** Bytes from `data` that reading or writing the tensor can touch. */
  #checkShape(words: Words, at: number, name: string): number {
    const type = words[at + word.type]!
    const blockSize = type < TYPE_BLOCK_SIZE.length ? TYPE_BLOCK_SIZE[type]! : 0
    if (blockSize === 0) refuse(`${name}.type`, "is no type of ggml", type)
    const ne = at + word.ne
    const ne0 = words[ne]!
    if (ne0 % blockSize !== 0) {
      refuse(`${name}.ne[0]`, `must be a multiple of the type's block size ${blockSize}`, ne0)
    }
    // A product beyond 2^53 cannot be memory, and soon overflows ggml's own arithmetic.
    const elements = ne0 * words[ne + 1]! * words[ne + 2]! * words[ne + 3]!
    if (elements > Number.MAX_SAFE_INTEGER) {
      refuse(`${name}.ne`, "makes 2^53 elements or more", describeShape(words, at))
    }
    const sizeBytes = byteSize(words, at)
    if (sizeBytes < 0) {
      refuse(`${name}.nb`, "makes a size of 2^53 bytes or more", describeShape(words, at))
    }
    this.sizeBytes = sizeBytes
    if (elements === 0) return 0
    // Kernels that take rows for dense touch this much of the last one whatever nb[0] says.
    const typeSize = TYPE_SIZE[type]!
    const nb0 = words[at + word.nb]!
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

/** readU64 gives -1 for what a number cannot hold. */
const known = (value: number): number | string => (value < 0 ? "2^53 or more" : value)

const checkNoBuffer = (words: Words, at: number, name: string, rule: BufferRule): void => {
  if (!isZeroU64(words, at + word.buffer) || rule === "required") {
    refuse(`${name}.buffer`, "is no buffer of this connection", hexU64(words, at + word.buffer))
  }
  if (!isZeroU64(words, at + word.data)) {
    const data = hexU64(words, at + word.data)
    refuse(`${name}.data`, "must be 0 for a tensor without a buffer", data)
  }
}

const takeKind = (words: Words, at: number, name: string, fromWire: Int16Array): void => {
  const wire = words[at + word.opParams]!
  if (wire >= fromWire.length) {
    refuse(`${name}.op_params[0]`, `must be below ${fromWire.length}`, wire)
  }
  const kind = fromWire[wire]!
  if (kind < 0) refuse(`${name}.op_params[0]`, "is no kind that this server has", wire)
  words[at + word.opParams] = kind
}

/** `ne[4096,32,1,1] nb[4,16384,524288,524288]`. */
export const describeShape = (words: Words, at: number): string => {
  const four = (start: number): string => words.subarray(start, start + 4).join(",")
  return `ne[${four(at + word.ne)}] nb[${four(at + word.nb)}]`
}
