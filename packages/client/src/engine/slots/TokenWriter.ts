import type { EngineEvent, Numbered, TokenData } from "../messages.ts"

/**
 * A text that grows 20 times a second looks smooth. A slower model's tokens leave one by one, at once; and what
 * an event costs the host, a millisecond of its core when the model has emptied its caches, is paid that often.
 */
const TOKEN_INTERVAL_MS = 50

/**
 * Tokens of all texts on their way to the host. Each write wakes that process, which on a small machine takes the
 * processor from a local server: tokens that come faster than a person could see leave together.
 */
export class TokenWriter {
  readonly #send: (events: ReadonlyArray<Numbered<EngineEvent>>) => void
  /** By the id of the request. */
  readonly #waiting = new Map<number, Array<TokenData>>()
  #writtenAt = 0

  constructor(send: (events: ReadonlyArray<Numbered<EngineEvent>>) => void) {
    this.#send = send
  }

  push(id: number, token: TokenData): void {
    const tokens = this.#waiting.get(id)
    if (tokens === undefined) this.#waiting.set(id, [token])
    else tokens.push(token)
  }

  /** Writes what has come, unless that was done a moment ago. */
  flushIfDue(): void {
    if (this.#waiting.size === 0) return
    const now = performance.now()
    if (now - this.#writtenAt < TOKEN_INTERVAL_MS) return
    this.#writtenAt = now
    const events = Array.from(
      this.#waiting,
      ([id, tokens]) => ({ type: "generating", tokens, id }) as const,
    )
    this.#waiting.clear()
    this.#send(events)
  }

  /** What was not written yet of a request is the caller's. */
  take(id: number): ReadonlyArray<TokenData> {
    const tokens = this.#waiting.get(id) ?? []
    this.#waiting.delete(id)
    return tokens
  }
}
