import type { NgramOptions } from "../../messages.ts"
import type { DraftedText, Drafter } from "./Drafter.ts"
import { NgramIndex } from "./NgramIndex.ts"

/** A text that repeats itself is short of a reason not to: it costs little to be wrong once. */
const FIRST_DEPTH = 8

interface Known {
  readonly index: NgramIndex
  /** The array of the text that the index is about. */
  readonly tokens: ReadonlyArray<number>
}

/** Guesses that a text goes on as it did behind the same n-gram before (llama.cpp's `ngram-simple`, v0.5.0). */
export class NgramDrafter implements Drafter {
  readonly firstDepth: number
  readonly leastDepth = 1
  readonly mostDepth: number
  readonly #size: number
  /** By the id of the text. */
  readonly #known: Array<Known | undefined> = []

  constructor({ lookupCount, draftCount }: NgramOptions) {
    this.#size = lookupCount
    this.mostDepth = draftCount
    this.firstDepth = Math.min(FIRST_DEPTH, draftCount)
  }

  release(): void {}

  draft(texts: ReadonlyArray<DraftedText>): void {
    for (const text of texts) this.#draft(text)
  }

  #draft({ id, tokens, most, draft }: DraftedText): void {
    let known = this.#known[id]
    if (known?.tokens !== tokens) {
      known = { index: new NgramIndex(this.#size), tokens }
      this.#known[id] = known
    }
    const place = known.index.find(tokens)
    if (place < 0) return
    for (let at = place; draft.length < most; at++) {
      // A short period goes on in the guesses themselves.
      draft.push(at < tokens.length ? tokens[at]! : draft[at - tokens.length]!)
    }
  }
}
