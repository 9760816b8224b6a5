import { fstatSync, readFileSync, readSync, writeSync } from "node:fs"
import { io } from "@ggml-rpc/native/bindings"

/** A place in the file, each number as f64. */
const field = {
  pid: 0,
  /** When that process started, as the system counts it: another one may get its id. */
  started: 1,
  /** Number of its server. */
  server: 2,
  /** Bytes of its buffers in host memory, and of all its buffers. */
  host: 3,
  all: 4,
} as const
const ENTRY_NUMBERS = 5
const ENTRY_BYTES = 8 * ENTRY_NUMBERS

/** Session processes of one user on a machine; whoever comes later is not seen by the others. */
const MAX_ENTRIES = 4096

/** What a session process without buffers has written. */
const IDLE_BYTES = 24 * 1024 * 1024

/** A process that keeps the others out for longer is stopped, or worse: they go on without its consent. */
const LOCK_TIMEOUT_MS = 1000

/** Of whoever only looks: all entries are others'. */
const NO_SLOT = -1

/**
 * Bytes that a process has written; 0 when it is gone, or the system does not say. A file that is mapped is none of them: its pages
 * look free to all of the machine, though the process goes on reading them. In a control group they may count as used as well as
 * promised, until they are memory of the process (`LargePages`).
 */
const writtenBytes = (pid: number): number => {
  try {
    const [, kibibytes] =
      readFileSync(`/proc/${pid}/status`, "utf8").match(/^RssAnon:\s+(\d+)/m) ?? []
    return Number(kibibytes ?? 0) * 1024
  } catch {
    return 0
  }
}

/** When a process started; 0 where the system does not say, undefined when there is none. */
const startOf = (pid: number): number | undefined => {
  if (process.platform === "linux") {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8")
      // Behind the name, which may hold anything.
      return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19])
    } catch {
      return undefined
    }
  }
  try {
    process.kill(pid, 0)
    return 0
  } catch {
    return undefined
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

interface Entry {
  readonly slot: number
  readonly pid: number
  readonly started: number
  readonly server: number
  readonly hostBytes: number
  readonly allBytes: number
}

const isAlive = ({ pid, started }: Entry): boolean => pid > 0 && startOf(pid) === started

/**
 * What the session processes of all servers of a user have given to their clients, in a file that they share. Host memory is
 * only taken from the system when it is written: what one session promised and its client has not yet written looks free to
 * all others. Entries of processes that are gone count for nothing, and their places are taken again.
 */
export class MemoryLedger {
  readonly #descriptor: number
  readonly #server: number
  readonly #slot: number
  readonly #started = startOf(process.pid) ?? 0

  private constructor(descriptor: number, server: number, slot: number) {
    this.#descriptor = descriptor
    this.#server = server
    this.#slot = slot
  }

  /** For a process that promises nothing; `server` as for `join`. */
  static watch(descriptor: number, server: number): MemoryLedger {
    return new MemoryLedger(descriptor, server, NO_SLOT)
  }

  /** Takes a place for this process, a session of the server of that number. */
  static join(descriptor: number, server: number): MemoryLedger {
    const looking = MemoryLedger.watch(descriptor, server)
    return looking.alone(() => {
      const taken = new Set(
        looking.#entries().flatMap((entry) => (isAlive(entry) ? entry.slot : [])),
      )
      let slot = 0
      while (taken.has(slot)) slot++
      const joined = new MemoryLedger(descriptor, server, slot)
      joined.set(0, 0)
      return joined
    })
  }

  /** Does something while no other session decides what it may promise: short things only. */
  alone<A>(work: () => A): A {
    io().io_lock(this.#descriptor, LOCK_TIMEOUT_MS)
    try {
      return work()
    } finally {
      io().io_unlock(this.#descriptor)
    }
  }

  /** Says how many bytes this process's buffers have: those in host memory, and all. */
  set(hostBytes: number, allBytes: number): void {
    const entry = Float64Array.of(process.pid, this.#started, this.#server, hostBytes, allBytes)
    const at = this.#slot * ENTRY_BYTES
    writeSync(this.#descriptor, new Uint8Array(entry.buffer), 0, ENTRY_BYTES, at)
  }

  #entries(): readonly Entry[] {
    const { size } = fstatSync(this.#descriptor)
    const count = Math.min(MAX_ENTRIES, Math.floor(size / ENTRY_BYTES))
    const numbers = new Float64Array(count * ENTRY_NUMBERS)
    const bytes = new Uint8Array(numbers.buffer)
    const got = readSync(this.#descriptor, bytes, 0, bytes.length, 0)
    return Array.from({ length: Math.floor(got / ENTRY_BYTES) }, (_, slot) => {
      const at = slot * ENTRY_NUMBERS
      return {
        slot,
        pid: numbers[at + field.pid]!,
        started: numbers[at + field.started]!,
        server: numbers[at + field.server]!,
        hostBytes: bytesOf(numbers[at + field.host]!),
        allBytes: bytesOf(numbers[at + field.all]!),
      }
    })
  }

  #others(): readonly Entry[] {
    return this.#entries().filter(({ slot }) => slot !== this.#slot)
  }

  /** Bytes of host memory that all other processes have promised, written or not: it changes when one of them grants something. */
  othersBytes(): number {
    return this.#others().reduce((sum, { hostBytes }) => sum + hostBytes, 0)
  }

  /** Bytes that the other processes of this server that live have promised on all devices. */
  othersAllBytes(): number {
    return this.#others().reduce(
      (sum, entry) =>
        entry.server === this.#server && entry.allBytes > 0 && isAlive(entry)
          ? sum + entry.allBytes
          : sum,
      0,
    )
  }

  /** Bytes that processes have promised and that are not yet written: all of them, or those that `counts` says. */
  unwrittenBytes(counts: (pid: number) => boolean = () => true): number {
    let unwritten = 0
    for (const entry of this.#entries()) {
      const { pid, hostBytes } = entry
      if (hostBytes === 0 || !isAlive(entry) || !counts(pid)) continue
      const written = writtenBytes(pid)
      // Where the system does not say what is written, all may be.
      if (written > 0) unwritten += Math.max(0, hostBytes - Math.max(0, written - IDLE_BYTES))
    }
    return unwritten
  }
}

/** Whatever a process wrote there. */
const bytesOf = (value: number): number => (value > 0 && value < 2 ** 53 ? value : 0)
