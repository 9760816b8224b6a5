/** Passes text on without the white space at its start and at its end; that within it stays. */
import type { Sink } from "./TextInput.ts"

export class Trimmed {
  readonly #sink: Sink
  #isAtStart: boolean
  #held = ""

  constructor(sink: Sink, { keepsStart = false } = {}) {
    this.#sink = sink
    this.#isAtStart = !keepsStart
  }

  push(text: string): void {
    let given = this.#held + text
    if (this.#isAtStart) given = given.trimStart()
    const shown = given.trimEnd()
    this.#held = given.slice(shown.length)
    if (shown === "") return
    this.#isAtStart = false
    this.#sink(shown)
  }

  /** Gives the white space at the end out after all. */
  flush(): void {
    if (this.#held !== "") this.#sink(this.#held)
    this.#held = ""
  }

  /** Forgets the white space at the end, and takes what comes for a start. */
  dropSpace(): void {
    this.#held = ""
    this.#isAtStart = true
  }
}
