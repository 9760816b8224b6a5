/**
 * Finds the texts that end a generation in what comes token by token, and holds back what may be the beginning of one.
 */
export class StopTexts {
  readonly #stops: ReadonlyArray<string>
  #held = ""
  #found: string | undefined

  constructor(stops: ReadonlyArray<string>) {
    this.#stops = stops.filter((stop) => stop !== "")
  }

  /** The one that came up. */
  get found(): string | undefined {
    return this.#found
  }

  /** What can be given out with this text; up to a stop text, where one is there. */
  push(text: string): string {
    if (this.#stops.length === 0) return text
    const all = this.#held + text
    let end = all.length
    for (const stop of this.#stops) {
      const at = all.indexOf(stop)
      if (at >= 0 && at < end) {
        end = at
        this.#found = stop
      }
    }
    if (this.#found === undefined) end = this.#heldFrom(all)
    this.#held = all.slice(end)
    return all.slice(0, end)
  }

  /** What was held back for nothing. */
  finish(): string {
    const rest = this.#found === undefined ? this.#held : ""
    this.#held = ""
    return rest
  }

  /** Where the longest end of `text` begins that a stop text begins with. */
  #heldFrom(text: string): number {
    let from = text.length
    for (const stop of this.#stops) {
      const longest = Math.min(stop.length - 1, text.length)
      for (let length = longest; length > text.length - from; length--) {
        if (text.endsWith(stop.slice(0, length))) from = text.length - length
      }
    }
    return from
  }
}
