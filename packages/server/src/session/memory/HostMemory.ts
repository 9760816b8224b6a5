import { type MemorySize, memoryPools } from "@ggml-rpc/native/bindings"
import type { Ledger } from "./MemoryLedger.ts"

/** Kept free for everything else on the machine; less on a small one. */
const RESERVE_BYTES = 256 * 1024 * 1024

/**
 * A reading of the free memory takes a third of a millisecond, and a model's buffers come in a row: for a while
 * one reading will do, for what it would allow this many times over.
 */
const READING_MS = 500
const PLENTY = 8

/** This machine's memory, as a session may take it: for buffers of its CPU, for graphs, for what lies between. */
export class HostMemory {
  readonly #ledger: Ledger
  /** What was left at the last reading, when that was, and what has been granted of it. */
  #spareBytes = 0
  #readAt = Number.NEGATIVE_INFINITY
  #grantedBytes = 0
  /** What other sessions had promised then. */
  #othersBytes = 0

  constructor(ledger: Ledger) {
    this.#ledger = ledger
  }

  /**
   * Total bytes, and those that a client can have now: without what sessions promised and nobody has written yet,
   * and without what stays free for the rest of the machine.
   */
  read(): MemorySize {
    const pools = memoryPools()
    const totalBytes = Math.min(...pools.map((pool) => pool.totalBytes))
    this.#othersBytes = this.#ledger.othersBytes()
    // What a process in another group promised takes nothing of this one's.
    const left = pools.map(({ freeBytes, holds }) => freeBytes - this.#ledger.unwrittenBytes(holds))
    const reserve = Math.min(RESERVE_BYTES, totalBytes / 32)
    this.#spareBytes = Math.max(0, Math.min(...left) - reserve)
    this.#readAt = performance.now()
    this.#grantedBytes = 0
    return { freeBytes: this.#spareBytes, totalBytes }
  }

  /**
   * Whether `sizeBytes` can be had without pushing this machine, or its cgroup, out of memory. What sessions
   * promised and nobody has written yet is as good as taken.
   */
  hasRoomFor(sizeBytes: number): boolean {
    const isRecent =
      performance.now() - this.#readAt < READING_MS &&
      this.#ledger.othersBytes() === this.#othersBytes
    const isPlenty = (this.#grantedBytes + sizeBytes) * PLENTY <= this.#spareBytes
    if (!isRecent || !isPlenty) this.read()
    this.#grantedBytes += sizeBytes
    return sizeBytes <= this.#spareBytes
  }
}
