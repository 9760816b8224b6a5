const LEAST_TABLE = 1024
const FACTOR = 0x9e3779b1

/**
 * Where the last tokens of a growing text were before. A table by hashes, in which later places stand in for earlier ones: a
 * token more costs as much as an n-gram is long, however long the text is.
 */
export class NgramIndex {
  readonly #size: number
  /** The place behind an n-gram, by its hash; 0: none. */
  #table = new Int32Array(LEAST_TABLE)
  /** N-grams that end at places before this one are in the table. */
  #end = 0

  /** @param size tokens of an n-gram; 1 at least */
  constructor(size: number) {
    this.#size = size
  }

  /** The last place before its end at which the text stood behind the same n-gram as now; -1: none. */
  find(tokens: ReadonlyArray<number>): number {
    const { length } = tokens
    if (length <= this.#size) return -1
    // A shift took tokens away, so that all places are others.
    if (length < this.#end) this.#reset(LEAST_TABLE)
    if (length * 2 > this.#table.length) this.#reset(2 ** Math.ceil(Math.log2(length * 4)))
    for (let place = Math.max(this.#end, this.#size); place < length; place++) {
      this.#table[this.#hash(tokens, place)] = place
    }
    this.#end = length
    const place = this.#table[this.#hash(tokens, length)]!
    return place > 0 && place < length && this.#isSame(tokens, place, length) ? place : -1
  }

  #isSame(tokens: ReadonlyArray<number>, a: number, b: number): boolean {
    for (let back = 1; back <= this.#size; back++) {
      if (tokens[a - back] !== tokens[b - back]) return false
    }
    return true
  }

  /** Of the n-gram before a place. */
  #hash(tokens: ReadonlyArray<number>, place: number): number {
    let hash = 0
    for (let index = place - this.#size; index < place; index++) {
      hash = (Math.imul(hash, FACTOR) + tokens[index]! + 1) | 0
    }
    return (hash ^ (hash >>> 15)) & (this.#table.length - 1)
  }

  #reset(size: number): void {
    this.#table = new Int32Array(size)
    this.#end = 0
  }
}
