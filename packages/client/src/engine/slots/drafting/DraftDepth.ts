/** Steps without a guess after so many wrong ones: twice as many each time, to this. */
const LONGEST_PAUSE = 32

/**
 * How many guesses are worth computing for one text: twice as many after all of the last ones were right, as many as were right
 * and one after some were not, and none for a while after none were.
 */
export class DraftDepth {
  readonly #least: number
  readonly #most: number
  #depth: number
  #pause = 0
  #wrongInRow = 0

  constructor(first: number, most: number, least = 1) {
    this.#least = least
    this.#most = most
    this.#depth = Math.min(first, most)
  }

  /** For the step that begins now; 0: none. */
  next(): number {
    if (this.#pause === 0) return this.#depth
    this.#pause--
    return 0
  }

  /** What came of a step's guesses, of which there were some. */
  learn(draftedCount: number, acceptedCount: number): void {
    if (acceptedCount > 0) this.#wrongInRow = 0
    else if (++this.#wrongInRow > 1) {
      this.#pause = Math.min(LONGEST_PAUSE, 2 ** (this.#wrongInRow - 2))
    }
    if (acceptedCount < draftedCount)
      this.#depth = Math.min(this.#most, Math.max(this.#least, acceptedCount + 1))
    // Guesses that were fewer than could be had say nothing of more.
    else if (draftedCount >= this.#depth) this.#depth = Math.min(this.#most, this.#depth * 2)
  }
}
