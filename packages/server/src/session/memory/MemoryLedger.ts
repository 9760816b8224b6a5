import { fstatSync, readFileSync, readSync, writeSync } from "node:fs"
import { io } from "@ggml-rpc/native/bindings"

/** A process, the bytes of its buffers in host memory, and those of all its buffers, each as f64. */
const ENTRY_NUMBERS = 3
const ENTRY_BYTES = 8 * ENTRY_NUMBERS

/** Resident bytes of a session process that has no buffers. */
const IDLE_BYTES = 64 * 1024 * 1024

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
export type Ledger = Pick<
  MemoryLedger,
  "set" | "alone" | "unwrittenBytes" | "othersBytes" | "othersAllBytes"
>

/** Of a process that shares its memory with no other session. */
export const noLedger: Ledger = {
  set: () => {},
  alone: (work) => work(),
  othersAllBytes: () => 0,
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

  /** Does something while no other session decides what it may promise: short things only. */
  alone<A>(work: () => A): A {
    io().io_lock(this.#descriptor)
    try {
      return work()
    } finally {
      io().io_unlock(this.#descriptor)
    }
  }

  /** Says how many bytes this process's buffers have: those in host memory, and all. */
  set(hostBytes: number, allBytes: number): void {
    const entry = new Float64Array([process.pid, hostBytes, allBytes])
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
    const entries = new Float64Array(Math.floor(size / ENTRY_BYTES) * ENTRY_NUMBERS)
    readSync(this.#descriptor, new Uint8Array(entries.buffer), 0, entries.byteLength, 0)
    return entries
  }

  /** Bytes of host memory that all other processes have promised, written or not: it changes when one of them grants something. */
  othersBytes(): number {
    return this.#others(1)
  }

  /** Bytes that the other processes that live have promised on all devices. */
  othersAllBytes(): number {
    return this.#others(2, (pid) => residentBytes(pid) > 0)
  }

  #others(column: 1 | 2, counts: (pid: number) => boolean = () => true): number {
    const entries = this.#entries()
    let others = 0
    for (let index = 0; index < entries.length; index += ENTRY_NUMBERS) {
      const bytes = entries[index + column]!
      const isOther = index !== this.#slot * ENTRY_NUMBERS && bytes > 0
      if (isOther && counts(entries[index]!)) others += bytes
    }
    return others
  }

  /** Bytes that all processes have promised and that are not yet written. */
  unwrittenBytes(): number {
    const entries = this.#entries()
    let unwritten = 0
    for (let index = 0; index < entries.length; index += ENTRY_NUMBERS) {
      const [pid, bytes] = [entries[index]!, entries[index + 1]!]
      const resident = bytes > 0 ? residentBytes(pid) : 0
      // Nothing is known of a process that is gone but that it needs nothing any more.
      if (resident > 0) unwritten += Math.max(0, bytes - Math.max(0, resident - IDLE_BYTES))
    }
    return unwritten
  }
}
