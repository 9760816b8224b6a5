import type { Address } from "@ggml-rpc/native/bindings"
import { readU64, type Words } from "../graph/tensorWords.ts"

/** A buffer of one client. Addresses that the client sees and real ones never mix: see `Buffers`. */
export interface SessionBuffer {
  /** The handle that the client knows. */
  readonly id: number
  /** Index of its device. */
  readonly device: number
  /** `ggml_backend_buffer_t`. */
  readonly native: Address
  readonly sizeBytes: number
  /** First address in the client's space; 0 for an empty buffer. */
  readonly base: number
  /** First real address. For memory of a device that the host cannot read it is only a number. */
  readonly nativeBase: Address
  /** Whether `nativeBase` can be read and written by this process. */
  readonly isHost: boolean
  /** Whether it is private memory of this process and of nobody else, of which pages may be replaced by others. */
  readonly isOwn: boolean
  /** Bytes behind its end that kernels for CPUs may read; without end for memory that these kernels never see. */
  readonly tailBytes: number
}

/** The handle of a session's first buffer. */
export const FIRST_ID = 1

/** The base of a session's first buffer: far from anything real. */
export const FIRST_BASE = 2 ** 44

/** Where the client's addresses end: plain numbers are exact up to here. */
const SPACE_END = 2 ** 53

/** Each takes address space of this process for the guards around it, and an empty one memory; a model has a handful. */
export const MAX_BUFFERS = 1024

/** Nothing lies between two buffers, so that an address past one end is never inside the next. */
const GUARD_BYTES = 2 ** 20

/** Bases are multiples of this or of the device's alignment, whichever is larger. */
const MIN_ALIGNMENT_BYTES = 4096

/**
 * The buffers of one client, in an address space of its own: handles count up, ranges are disjoint and
 * neither is used again while the session lives. So a stale handle or address hits nothing, and the
 * client learns nothing of this process's memory.
 */
export class Buffers {
  readonly #byId = new Map<number, SessionBuffer>()
  #hostBytes = 0
  #allBytes = 0
  #peakBytes = 0
  #nextId = FIRST_ID
  #nextBase = FIRST_BASE

  /** The highest handle that there was. */
  get lastId(): number {
    return this.#nextId - 1
  }

  /** Bytes of all buffers that this process can read: its own memory. */
  get hostBytes(): number {
    return this.#hostBytes
  }

  /** Bytes of all buffers, on whatever device. */
  get allBytes(): number {
    return this.#allBytes
  }

  /** The most that there were of them. */
  get peakBytes(): number {
    return this.#peakBytes
  }

  /** Whether there may be one more, and the address space has room for its `sizeBytes`. */
  hasRoom(sizeBytes: number, alignmentBytes: number): boolean {
    if (this.#byId.size >= MAX_BUFFERS) return false
    return this.#align(alignmentBytes) + sizeBytes + GUARD_BYTES <= SPACE_END
  }

  add(buffer: Omit<SessionBuffer, "id" | "base">, alignmentBytes: number): SessionBuffer {
    const start = this.#align(alignmentBytes)
    const added = { ...buffer, id: this.#nextId++, base: buffer.sizeBytes === 0 ? 0 : start }
    this.#nextBase = start + buffer.sizeBytes + GUARD_BYTES
    this.#byId.set(added.id, added)
    this.#allBytes += added.sizeBytes
    this.#peakBytes = Math.max(this.#peakBytes, this.#allBytes)
    if (added.isHost) this.#hostBytes += added.sizeBytes
    return added
  }

  #align(alignmentBytes: number): number {
    const step = Math.max(alignmentBytes, MIN_ALIGNMENT_BYTES)
    return Math.ceil(this.#nextBase / step) * step
  }

  /** The buffer whose handle is the u64 at word `at`, or undefined. */
  find(words: Words, at: number): SessionBuffer | undefined {
    return this.#byId.get(readU64(words, at))
  }

  all(): Iterable<SessionBuffer> {
    return this.#byId.values()
  }

  /** Removes all, for another client: its handles and addresses start anew. */
  clear(): void {
    this.#byId.clear()
    this.#hostBytes = 0
    this.#allBytes = 0
    this.#peakBytes = 0
    this.#nextId = FIRST_ID
    this.#nextBase = FIRST_BASE
  }

  remove(buffer: SessionBuffer): void {
    if (!this.#byId.delete(buffer.id)) return
    this.#allBytes -= buffer.sizeBytes
    if (buffer.isHost) this.#hostBytes -= buffer.sizeBytes
  }
}
