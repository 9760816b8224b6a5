import { GgufError } from "./GgufError.ts"
import type { Source } from "./Source.ts"

const CHUNK_BYTES = 64 * 1024
/** Longest string taken from a file; chat templates, the longest in practice, stay below 64 KiB. */
const MAX_STRING_BYTES = 16 * 1024 * 1024
/** All strings of one file together; a vocabulary of 2^18 tokens is about 4 MiB. */
const MAX_STRINGS_BYTES = 128 * 1024 * 1024

/**
 * Reads little-endian values from a source, in order, through one small buffer. Every read is checked
 * against the file's size first, so that an announced length never takes memory that the file could
 * not fill. Throws `GgufError`, and what the source throws.
 */
export class Cursor {
  /** The source's, for messages. */
  readonly name: string
  readonly fileBytes: number
  private readonly source: Source
  private readonly buffer = new Uint8Array(CHUNK_BYTES)
  private readonly view = new DataView(this.buffer.buffer)
  // A byte order mark is text here: vocabularies hold one as a token.
  private readonly decoder = new TextDecoder("utf-8", { ignoreBOM: true })
  private bufferStart = 0
  private bufferLength = 0
  private at = 0
  private stringsBytes = 0

  constructor(source: Source) {
    this.source = source
    this.name = source.name
    this.fileBytes = source.sizeBytes
  }

  get offsetBytes(): number {
    return this.bufferStart + this.at
  }

  get remainingBytes(): number {
    return this.fileBytes - this.offsetBytes
  }

  /** Fails when fewer than `sizeBytes` are left; `what` names them in the message. */
  expect(sizeBytes: number, what: string): void {
    if (sizeBytes > this.remainingBytes) throw this.truncated(this.offsetBytes + sizeBytes, what)
  }

  seek(offsetBytes: number, what: string): void {
    if (offsetBytes > this.fileBytes) throw this.truncated(offsetBytes, what)
    const inBuffer = offsetBytes - this.bufferStart
    if (inBuffer >= 0 && inBuffer <= this.bufferLength) {
      this.at = inBuffer
      return
    }
    this.bufferStart = offsetBytes
    this.bufferLength = 0
    this.at = 0
  }

  skip(sizeBytes: number, what: string): void {
    this.expect(sizeBytes, what)
    this.seek(this.offsetBytes + sizeBytes, what)
  }

  u8(what: string): number {
    return this.view.getUint8(this.take(1, what))
  }
  i8(what: string): number {
    return this.view.getInt8(this.take(1, what))
  }
  u16(what: string): number {
    return this.view.getUint16(this.take(2, what), true)
  }
  i16(what: string): number {
    return this.view.getInt16(this.take(2, what), true)
  }
  u32(what: string): number {
    return this.view.getUint32(this.take(4, what), true)
  }
  i32(what: string): number {
    return this.view.getInt32(this.take(4, what), true)
  }
  f32(what: string): number {
    return this.view.getFloat32(this.take(4, what), true)
  }
  f64(what: string): number {
    return this.view.getFloat64(this.take(8, what), true)
  }
  u64(what: string): bigint {
    return this.view.getBigUint64(this.take(8, what), true)
  }
  i64(what: string): bigint {
    return this.view.getBigInt64(this.take(8, what), true)
  }

  /** A 64-bit count, length or offset, as a number; what a double cannot hold is malformed. */
  count(what: string): number {
    const at = this.take(8, what)
    const value = this.view.getUint32(at, true) + this.view.getUint32(at + 4, true) * 2 ** 32
    if (!Number.isSafeInteger(value)) throw this.malformed(`its ${what} is ${value}`)
    return value
  }

  string(what: string): string {
    const sizeBytes = this.stringLength(what)
    this.stringsBytes += sizeBytes
    if (sizeBytes > MAX_STRING_BYTES || this.stringsBytes > MAX_STRINGS_BYTES) {
      throw this.malformed(`its ${what} is too long (${sizeBytes} bytes)`)
    }
    if (sizeBytes <= CHUNK_BYTES) {
      const at = this.take(sizeBytes, what)
      return this.decoder.decode(this.buffer.subarray(at, at + sizeBytes))
    }
    const bytes = new Uint8Array(sizeBytes)
    this.readInto(bytes, sizeBytes, this.offsetBytes, what)
    this.skip(sizeBytes, what)
    return this.decoder.decode(bytes)
  }

  /**
   * Over `count` strings. A vocabulary has 32 to 256 thousand, and is skipped at every start, before anything is compiled:
   * those that are in the buffer are passed in one loop, by their first two bytes of eight where the others say nothing.
   */
  skipStrings(count: number, what: string): void {
    for (let left = count; left > 0; left--) {
      left = this.skipShortStrings(left)
      if (left > 0) this.skip(this.stringLength(what), what)
    }
  }

  /** Over those of `count` strings that lie in the buffer and are short; returns how many are left. */
  private skipShortStrings(count: number): number {
    const { buffer, bufferLength } = this
    let { at } = this
    let left = count
    while (left > 0 && at + 8 <= bufferLength) {
      const next = at + 8 + buffer[at]! + buffer[at + 1]! * 256
      if (
        next > bufferLength ||
        (buffer[at + 2]! |
          buffer[at + 3]! |
          buffer[at + 4]! |
          buffer[at + 5]! |
          buffer[at + 6]! |
          buffer[at + 7]!) !==
          0
      )
        break
      at = next
      left--
    }
    this.at = at
    return left
  }

  malformed(detail: string): GgufError {
    return new GgufError({
      path: this.name,
      reason: "malformed",
      message: `${this.name} is not a usable GGUF file: ${detail}; download or convert the model again`,
    })
  }

  unknownType(detail: string): GgufError {
    return new GgufError({
      path: this.name,
      reason: "unknown-type",
      message: `${this.name} is newer than this release, or damaged: ${detail}, which is not known here; update ggml-rpc, or take another quantization of the model`,
    })
  }

  /** The file should have held at least `neededBytes`. */
  truncated(neededBytes: number, what: string): GgufError {
    const missing = neededBytes - this.fileBytes
    return new GgufError({
      path: this.name,
      reason: "truncated",
      message:
        `${this.name} is truncated: at least ${missing} more bytes are needed for its ${what} ` +
        `(it has ${this.fileBytes}); download or copy it again`,
    })
  }

  private stringLength(what: string): number {
    const sizeBytes = this.count(`${what} (length)`)
    this.expect(sizeBytes, what)
    return sizeBytes
  }

  /** Position in the buffer of the next `sizeBytes` (at most one chunk), which are then consumed. */
  private take(sizeBytes: number, what: string): number {
    if (this.at + sizeBytes > this.bufferLength) this.refill(sizeBytes, what)
    const at = this.at
    this.at += sizeBytes
    return at
  }

  private refill(sizeBytes: number, what: string): void {
    this.expect(sizeBytes, what)
    const start = this.offsetBytes
    const length = Math.min(CHUNK_BYTES, this.fileBytes - start)
    this.bufferLength = this.readInto(this.buffer.subarray(0, length), sizeBytes, start, what)
    this.bufferStart = start
    this.at = 0
  }

  /** Reads at least `leastBytes` into `target`, and more where the source has them at hand. */
  private readInto(
    target: Uint8Array,
    leastBytes: number,
    offsetBytes: number,
    what: string,
  ): number {
    let done = 0
    while (done < leastBytes) {
      const read = this.source.read(target.subarray(done), offsetBytes + done)
      // The file shrank since its size was asked for.
      if (read === 0) throw this.truncated(offsetBytes + leastBytes, what)
      done += read
    }
    return done
  }
}
