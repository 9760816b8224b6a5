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

/** Counts requests and bytes; two additions a request. */
export class SessionStats {
  readonly #ms = new Float64Array(256)
  readonly #counts = new Uint32Array(256 * CLASSES)
  receivedBytes = 0
  sentBytes = 0

  note(command: number, ms: number): void {
    let at = 0
    while (at < TIME_BOUNDS_MS.length && ms > TIME_BOUNDS_MS[at]!) at++
    this.#ms[command]! += ms
    this.#counts[command * CLASSES + at]!++
  }

  /** What there was since the last call. */
  take(): {
    readonly commands: readonly CommandStats[]
    readonly receivedBytes: number
    readonly sentBytes: number
  } {
    const commands: CommandStats[] = []
    for (let command = 0; command < 256; command++) {
      const counts = this.#counts.subarray(command * CLASSES, (command + 1) * CLASSES)
      if (counts.every((count) => count === 0)) continue
      const ms = this.#ms[command]!
      commands.push({ command: describeCommand(command), ms, counts: [...counts] })
    }
    const { receivedBytes, sentBytes } = this
    this.#ms.fill(0)
    this.#counts.fill(0)
    this.receivedBytes = 0
    this.sentBytes = 0
    return { commands, receivedBytes, sentBytes }
  }
}
