/** The most likely tokens of a context's outputs, found by the servers that its logits are read from; see shim/found_rows.h. */
import type { Batch } from "./Batch.ts"
import { ggml } from "./libggml.ts"

/** So many tokens are found at most, as the protocol's MAX_TOP_COUNT: where more are wanted, all come. */
export const MOST_FOUND = 1024

/** Where in the shim's `found_rows` its `part_count` is. */
const PART_COUNT_AT = 8

export class ReadCandidates {
  /** No samplers of libllama's find them. */
  readonly chains = undefined
  /** The shim's `found_rows`: what was found in the last decode. */
  readonly rows = new Uint8Array(ggml().gs_found_rows_size())
  readonly #view = new DataView(this.rows.buffer)
  readonly #vocabSize: number
  /** By sequence: how many tokens its outputs are at least; 0: all. */
  readonly #counts: Int32Array

  constructor(sequenceCount: number, vocabSize: number) {
    this.#vocabSize = vocabSize
    this.#counts = new Int32Array(sequenceCount)
  }

  /** From now on at least `count` of the most likely tokens come for a sequence; 0: all. */
  want(sequence: number, count: number): void {
    this.#counts[sequence] = count <= MOST_FOUND ? count : 0
  }

  release(): void {}

  /** Before a decode of a batch: what is read of its outputs is what each of their sequences can do with. */
  begin({ sequences, outputs, count }: Batch): void {
    let most = 0
    for (let index = 0; index < count; index++) {
      if (outputs[index] === 0) continue
      const wanted = this.#counts[sequences[index]!]!
      if (wanted === 0) {
        this.beginWhole()
        return
      }
      if (wanted > most) most = wanted
    }
    ggml().gs_remote_find(this.rows, this.#vocabSize, most)
  }

  /** Before a decode whose outputs are all read whole. */
  beginWhole(): void {
    ggml().gs_remote_find(this.rows, this.#vocabSize, 0)
  }

  /** Behind a decode: those of other contexts are none of this one's. */
  end(): void {
    ggml().gs_remote_find(null, 0, 0)
  }

  /** Outputs of the last decode are the most likely tokens alone, at least in a part. */
  get hasFound(): boolean {
    return this.#view.getUint32(PART_COUNT_AT, true) > 0
  }
}
