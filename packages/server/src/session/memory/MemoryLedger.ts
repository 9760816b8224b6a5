import { fstatSync, readFileSync, readSync, writeSync } from "node:fs"

/** A process and the bytes of its buffers in host memory, both as f64. */
const ENTRY_BYTES = 16

/** Resident bytes of a session process that has no buffers. */
const IDLE_BYTES = 48 * 1024 * 1024

/** Resident bytes of a process; 0 when it is gone, or the system does not say. */
const residentBytes = (pid: number): number => {
  try {
    const [, kibibytes] =
      readFileSync(`/proc/${pid}/status`, "utf8").match(/^VmRSS:\s+(\d+)/m) ?? []
    return Number(kibibytes ?? 0) * 1024
  } catch {
    return 0
  }
}

/** What is asked of `MemoryLedger`. */
export type Ledger = Pick<MemoryLedger, "set" | "unwrittenBytes" | "othersBytes">

/** Of a process that shares its memory with no other session. */
export const noLedger: Ledger = {
  set: () => {},
  unwrittenBytes: () => 0,
  othersBytes: () => 0,
}

/**
 * What the session processes of a server have given to their clients, in a file that they share. Host memory
 * is only taken from the system when it is written: what one session promised and its client has not yet
 * written looks free to all others.
 */
export class MemoryLedger {
  readonly #descriptor: number
  readonly #slot: number

  /** `slot` is this process's place in the file. */
  constructor(descriptor: number, slot: number) {
    this.#descriptor = descriptor
    this.#slot = slot
  }

  /** Says how many bytes this process's buffers have. */
  set(bytes: number): void {
    const entry = new Float64Array([process.pid, bytes])
    writeSync(
      this.#descriptor,
      new Uint8Array(entry.buffer),
      0,
      ENTRY_BYTES,
      this.#slot * ENTRY_BYTES,
    )
  }

  #entries(): Float64Array {
    const { size } = fstatSync(this.#descriptor)
    const entries = new Float64Array(Math.floor(size / ENTRY_BYTES) * 2)
    readSync(this.#descriptor, new Uint8Array(entries.buffer), 0, entries.byteLength, 0)
    return entries
  }

  /** Bytes that all other processes have promised, written or not: it changes when one of them grants something. */
  othersBytes(): number {
    const entries = this.#entries()
    let others = 0
    for (let index = 0; index < entries.length; index += 2) {
      if (index !== this.#slot * 2) others += entries[index + 1]!
    }
    return others
  }

  /** Bytes that all processes have promised and that are not yet written. */
  unwrittenBytes(): number {
    const entries = this.#entries()
    let unwritten = 0
    for (let index = 0; index < entries.length; index += 2) {
      const [pid, bytes] = [entries[index]!, entries[index + 1]!]
      const resident = bytes > 0 ? residentBytes(pid) : 0
      // Nothing is known of a process that is gone but that it needs nothing any more.
      if (resident > 0) unwritten += Math.max(0, bytes - Math.max(0, resident - IDLE_BYTES))
    }
    return unwritten
  }
}
