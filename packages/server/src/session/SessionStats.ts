import { describeCommand } from "@ggml-rpc/protocol"

/** Upper bounds of the classes that a request's time is counted in, in milliseconds; longer ones are in the last. */
export const TIME_BOUNDS_MS = [0.1, 1, 10, 100, 1000, 10_000] as const

const CLASSES = TIME_BOUNDS_MS.length + 1

/** What a command's requests took since they were told last. */
export interface CommandStats {
  /** Its name. */
  readonly command: string
  /** All time in milliseconds: of taking the rest of the request, doing it, and sending what cannot wait. */
  readonly ms: number
  /** Requests by class of time; see `TIME_BOUNDS_MS`. */
  readonly counts: readonly number[]
}

/** What a session did since it told last. */
export interface StatsCounts {
  readonly commands: readonly CommandStats[]
  readonly receivedBytes: number
  readonly sentBytes: number
  /** Weights that the cache had, of those that clients asked it for. */
  readonly cacheHits: number
  readonly cacheMisses: number
}

/** Counts requests and bytes; two additions a request. */
export class SessionStats {
  readonly #ms = new Float64Array(256)
  readonly #counts = new Uint32Array(256 * CLASSES)
  /** Commands that were counted, in the order in which they came first. */
  readonly #seen: number[] = []
  receivedBytes = 0
  sentBytes = 0
  cacheHits = 0
  cacheMisses = 0

  note(command: number, ms: number): void {
    let at = 0
    while (at < TIME_BOUNDS_MS.length && ms > TIME_BOUNDS_MS[at]!) at++
    if (this.#ms[command] === 0 && !this.#seen.includes(command)) this.#seen.push(command)
    this.#ms[command]! += ms
    this.#counts[command * CLASSES + at]!++
  }

  /** What there was since the last call. */
  take(): StatsCounts {
    const commands = this.#seen.map((command): CommandStats => {
      const counts = this.#counts.subarray(command * CLASSES, (command + 1) * CLASSES)
      const stats = {
        command: describeCommand(command),
        ms: this.#ms[command]!,
        counts: [...counts],
      }
      counts.fill(0)
      this.#ms[command] = 0
      return stats
    })
    const { receivedBytes, sentBytes, cacheHits, cacheMisses } = this
    this.#seen.length = 0
    this.receivedBytes = 0
    this.sentBytes = 0
    this.cacheHits = 0
    this.cacheMisses = 0
    return { commands, receivedBytes, sentBytes, cacheHits, cacheMisses }
  }
}
