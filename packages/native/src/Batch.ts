/** Tokens of several sequences that one `ModelContext.decodeBatch` computes: its arrays are filled again and again. */
export class Batch {
  readonly capacity: number
  readonly tokens: Int32Array
  readonly positions: Int32Array
  readonly sequences: Int32Array
  /** 1 where a token gives logits (or embeddings), else 0. */
  readonly outputs: Int8Array
  #count = 0

  /** @param capacity tokens, at most the context's `batchSize` */
  constructor(capacity: number) {
    this.capacity = capacity
    this.tokens = new Int32Array(capacity)
    this.positions = new Int32Array(capacity)
    this.sequences = new Int32Array(capacity)
    this.outputs = new Int8Array(capacity)
  }

  get count(): number {
    return this.#count
  }

  /** The token's index, by which its output is found after the decode. */
  add(token: number, position: number, sequence: number, hasOutput: boolean): number {
    const index = this.#count
    if (index === this.capacity) throw new RangeError(`The batch holds ${index} tokens already.`)
    this.tokens[index] = token
    this.positions[index] = position
    this.sequences[index] = sequence
    this.outputs[index] = hasOutput ? 1 : 0
    this.#count = index + 1
    return index
  }

  clear(): void {
    this.#count = 0
  }
}
