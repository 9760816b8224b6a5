import {
  Batch,
  decodeStatusText,
  type ModelContext,
  type Sampler,
} from "@ggml-rpc/native/bindings/llama"
import { ModelError } from "../../../errors.ts"
import { type Loaded, roomOf } from "../../Loaded.ts"
import type { DraftOptions } from "../../messages.ts"
import { commonLength } from "../commonLength.ts"
import type { DraftedText, Drafter } from "./Drafter.ts"

/** A text that is about to get its next guess. */
interface Running {
  readonly text: DraftedText
  /** Of its last token in the batch. */
  index: number
}

/**
 * Guesses by a smaller model with the same vocabulary, which has a cache of its own: each text is there in the sequence of its
 * slot, as far as the text and earlier guesses agreed.
 */
export class DraftModel implements Drafter {
  readonly firstDepth: number
  readonly leastDepth: number
  readonly mostDepth: number
  readonly #loaded: Loaded
  readonly #options: DraftOptions
  readonly #failIfLost: () => void
  readonly #vocabSize: number
  /** In the cache, by the id of the text. */
  readonly #cached: Array<Array<number>> = []
  readonly #batch: Batch
  readonly #sampler: Sampler
  #running: Array<Running> = []

  /** @param vocabSize tokens of the model that guesses are for */
  constructor(loaded: Loaded, options: DraftOptions, vocabSize: number, failIfLost: () => void) {
    const { context, model } = loaded
    this.#loaded = loaded
    this.#options = options
    this.#vocabSize = vocabSize
    this.#failIfLost = failIfLost
    this.firstDepth = options.draftCount
    this.leastDepth = Math.max(1, options.leastCount)
    this.mostDepth = options.draftCount
    this.#batch = new Batch(Math.min(context.batchSize, context.contextSize))
    this.#sampler = model.openSampler({ temp: 0, samplers: [] })
    // Probabilities are among all tokens.
    const count = options.leastProbability > 0 ? 0 : this.#sampler.candidateCount
    const { slotCount = 1 } = loaded.options
    for (let sequence = 0; sequence < slotCount; sequence++) context.wantCandidates(sequence, count)
  }

  release(): void {
    this.#sampler.release()
  }

  /** Steps with one more token of each text, until each has what is wanted. */
  draft(texts: ReadonlyArray<DraftedText>): void {
    this.#begin(texts)
    while (this.#running.length > 0) {
      this.#decode()
      this.#loaded.context.synchronize()
      this.#failIfLost()
      this.#running = this.#running.filter((running) => this.#take(running))
      this.#batch.clear()
      for (const running of this.#running) {
        const { text } = running
        running.index = this.#add(text, text.draft[text.draft.length - 1]!, true)
      }
    }
    for (const { draft } of texts) if (draft.length < this.#options.leastCount) draft.length = 0
  }

  /**
   * Fills a batch with what the cache lacks of texts. A long one takes several steps, and has guesses from the last of them on:
   * nobody waits for more than a batch.
   */
  #begin(texts: ReadonlyArray<DraftedText>): void {
    const batch = this.#batch
    batch.clear()
    this.#running = []
    for (const text of texts) this.#forgetOther(text)
    // Cells for guesses of the texts so far.
    let reserved = 0
    for (const text of texts) {
      const cached = this.#cached[text.id]!
      const missing = text.tokens.length - cached.length
      if (text.tokens.length + text.most > roomOf(this.#loaded)) continue
      const count = Math.min(missing, batch.capacity - batch.count)
      if (count < 1 || !this.#makeRoom(texts, reserved + count + text.most)) continue
      reserved += text.most
      const isWhole = count === missing
      let index = -1
      for (let at = 0; at < count; at++) {
        const token = text.tokens[cached.length]!
        index = this.#add(text, token, isWhole && at === count - 1)
      }
      if (isWhole) this.#running.push({ text, index })
    }
    // What is computed for later gives no output.
    if (this.#running.length === 0 && batch.count > 0) this.#decode()
  }

  #add({ id }: DraftedText, token: number, hasOutput: boolean): number {
    const cached = this.#cached[id]!
    const index = this.#batch.add(token, cached.length, id, hasOutput)
    cached.push(token)
    return index
  }

  /** Whether the text wants another guess behind the one that it got. */
  #take({ text, index }: Running): boolean {
    const { context, model } = this.#loaded
    const token = this.#sampler.sample(context, index)
    const { leastProbability } = this.#options
    // What ends a text is for the model to say; and a larger vocabulary than its own has tokens that it does not know.
    if (token >= this.#vocabSize || model.isEndOfGeneration(token)) return false
    if (leastProbability > 0 && !this.#isLikely(context, token, index)) return false
    text.draft.push(token)
    return text.draft.length < text.most
  }

  #isLikely(context: ModelContext, token: number, index: number): boolean {
    const [[, logprob]] = context.logprobs(token, 0, index) as [readonly [number, number]]
    return logprob >= Math.log(this.#options.leastProbability)
  }

  /** Keeps of a text's cache what the text begins with; its last token is always computed. */
  #forgetOther({ id, tokens }: DraftedText): void {
    this.#cached[id] ??= []
    const cached = this.#cached[id]
    const kept = Math.min(commonLength(cached, tokens), tokens.length - 1)
    if (kept < cached.length) this.#keep(id, kept)
  }

  #keep(id: number, count: number): void {
    const { context } = this.#loaded
    const isKept = context.removeFrom(count, id)
    if (!isKept) context.removeFrom(0, id)
    this.#cached[id]!.length = isKept ? count : 0
  }

  /** Sees that the cache has cells for so many more tokens, at the cost of texts that want no guesses. */
  #makeRoom(texts: ReadonlyArray<DraftedText>, count: number): boolean {
    const free = (): number =>
      this.#cached.reduce((left, { length }) => left - length, this.#loaded.context.contextSize)
    for (let id = 0; id < this.#cached.length && free() < count; id++) {
      if (texts.every((text) => text.id !== id)) this.#keep(id, 0)
    }
    return free() >= count
  }

  #decode(): void {
    const { context, path } = this.#loaded
    const status = context.decodeBatch(this.#batch)
    this.#failIfLost()
    if (status === 0) return
    for (const id of this.#cached.keys()) this.#keep(id, 0)
    throw new ModelError({ path, during: "decode", detail: `${decodeStatusText(status)}.` })
  }
}
