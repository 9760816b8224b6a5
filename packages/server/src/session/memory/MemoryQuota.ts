import type { MemorySize } from "@ggml-rpc/native/bindings"
import type { Buffers } from "./buffers.ts"
import type { Ledger } from "./MemoryLedger.ts"

/** What clients may have of all devices together, in bytes; absent: no limit of its own. */
export interface MemoryLimits {
  /** All clients of the server. */
  readonly serverBytes?: number
  /** Each client. */
  readonly clientBytes?: number
}

/** How much of the limits is left to this session. */
export class MemoryQuota {
  readonly #limits: MemoryLimits
  readonly #ledger: Ledger
  readonly #buffers: Buffers

  constructor(limits: MemoryLimits, ledger: Ledger, buffers: Buffers) {
    this.#limits = limits
    this.#ledger = ledger
    this.#buffers = buffers
  }

  /** Bytes; infinite where nothing limits them. */
  leftBytes(): number {
    const { serverBytes, clientBytes } = this.#limits
    const own = this.#buffers.allBytes
    const left = clientBytes === undefined ? Number.POSITIVE_INFINITY : clientBytes - own
    if (serverBytes === undefined) return Math.max(0, left)
    return Math.max(0, Math.min(left, serverBytes - own - this.#ledger.othersAllBytes()))
  }

  /** A device's memory as a client is told of it: never more than it would get. */
  limited({ freeBytes, totalBytes }: MemorySize): MemorySize {
    const { serverBytes = totalBytes, clientBytes = totalBytes } = this.#limits
    return {
      freeBytes: Math.min(freeBytes, this.leftBytes()),
      totalBytes: Math.min(totalBytes, serverBytes, clientBytes),
    }
  }
}
