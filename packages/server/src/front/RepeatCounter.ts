import type { LogEntry, LogSink } from "./log.ts"

/** Kinds of lines that are counted at a time, of all and of one address; lines of further kinds are all of one. */
const MAX_KINDS = 1024
const MAX_KINDS_PER_ADDRESS = 32

/** A kind of line that was written not long ago. */
interface Kind {
  readonly address: string | undefined
  /** Lines since, and the last of them. */
  count: number
  last: LogEntry | undefined
  timer: ReturnType<typeof setTimeout>
}

/**
 * Writes the first line of a kind, counts those that follow for a while, and then writes the last of them with the count.
 * So a client in a loop does not fill the disk, and what else happens stays visible. Debug lines all pass.
 */
export class RepeatCounter {
  readonly #sink: LogSink
  readonly #windowMs: number
  readonly #kinds = new Map<string, Kind>()
  readonly #kindCounts = new Map<string | undefined, number>()

  /** Counts lines of a kind for `windowMs` after one was written. */
  constructor(sink: LogSink, windowMs: number) {
    this.#sink = sink
    this.#windowMs = windowMs
  }

  readonly log: LogSink = (entry) => {
    if (entry.level === "debug") {
      this.#sink(entry)
      return
    }
    const key = this.#keyOf(entry)
    const kind = this.#kinds.get(key)
    if (kind === undefined) {
      this.#open(key, entry.address)
      this.#sink(entry)
    } else {
      kind.count++
      kind.last = entry
    }
  }

  /** Writes what was counted. */
  close(): void {
    for (const kind of this.#kinds.values()) {
      clearTimeout(kind.timer)
      this.#tell(kind)
    }
    this.#kinds.clear()
  }

  #keyOf(entry: LogEntry): string {
    const key = kindOf(entry)
    if (this.#kinds.has(key)) return key
    const { address } = entry
    const ofAddress = this.#kindCounts.get(address) ?? 0
    if (address !== undefined && ofAddress >= MAX_KINDS_PER_ADDRESS) return `others ${address}`
    return this.#kinds.size >= MAX_KINDS ? "others" : key
  }

  #open(key: string, address: string | undefined): void {
    const timer = this.#timer(key)
    this.#kinds.set(key, { address, count: 0, last: undefined, timer })
    this.#kindCounts.set(address, (this.#kindCounts.get(address) ?? 0) + 1)
  }

  #timer(key: string): ReturnType<typeof setTimeout> {
    return setTimeout(() => this.#pass(key), this.#windowMs).unref()
  }

  /** A window is over: the next one begins with the count, and the kind ends when there was nothing to count. */
  #pass(key: string): void {
    const kind = this.#kinds.get(key)!
    if (kind.count > 0) {
      this.#tell(kind)
      kind.timer = this.#timer(key)
      return
    }
    this.#kinds.delete(key)
    const left = this.#kindCounts.get(kind.address)! - 1
    if (left === 0) this.#kindCounts.delete(kind.address)
    else this.#kindCounts.set(kind.address, left)
  }

  #tell(kind: Kind): void {
    const { count, last } = kind
    if (last === undefined) return
    kind.count = 0
    kind.last = undefined
    const seconds = Math.round(this.#windowMs / 1000)
    const text = count === 1 ? last.message : `${last.message} (${count} like it in ${seconds} s)`
    this.#sink({ ...last, message: text })
  }
}

/** Lines about one address differ in ports and in the numbers of requests; others are what they say. */
const kindOf = ({ level, address, message }: LogEntry): string =>
  address === undefined
    ? `${level} ${message}`
    : `${level} ${address} ${message.replace(/0x[0-9a-f]+|\d+/g, "#")}`
