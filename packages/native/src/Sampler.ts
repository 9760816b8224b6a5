/** Chooses the next token, by a chain of llama's samplers. */
import { type Pointer, read } from "bun:ffi"
import { type Address, asPointer } from "./io.ts"
import { llama } from "./libllama.ts"
import type { ModelContext } from "./ModelContext.ts"

/**
 * By llama-cli's names. What is not given comes from the model's metadata (`general.sampling.*`), and
 * else is llama-cli's default, which is named here.
 */
export interface SamplerOptions {
  /** Temperature: 0.8; 0 or less always takes the most likely token. */
  readonly temp?: number
  /** Keeps the k most likely tokens: 40; 0 keeps all. */
  readonly topK?: number
  /** Keeps the most likely tokens that together reach this probability: 0.95; 1 keeps all. */
  readonly topP?: number
  /** Drops tokens less likely than this part of the most likely one: 0.05; 0 keeps all. */
  readonly minP?: number
  /** Divides the logits of tokens that were there lately: 1, no penalty; above 0. */
  readonly repeatPenalty?: number
  /** How many tokens back "lately" reaches: 64; 0 turns the penalty off. */
  readonly repeatLastN?: number
  /** 0 to 2^32 - 2; -1, the default, is a random one. */
  readonly seed?: number
  /** Never chooses a token that ends the text. */
  readonly ignoreEos?: boolean
}

/** What a sampler needs to know of its model. */
export interface SampledModel {
  readonly address: Address
  readonly vocabSize: number
  readonly metadata: (key: string) => string | undefined
  readonly isEndOfGeneration: (token: number) => boolean
}

export class Sampler {
  readonly #library = llama()
  readonly #chain: Pointer
  #released = false

  /** @param chain address of a llama_sampler_chain, which this takes over */
  constructor(chain: Address) {
    this.#chain = asPointer(chain)
  }

  /**
   * Chooses a token from the logits at `index` of the context's last `decode` (see
   * `ModelContext.logits`), and accepts it.
   */
  sample(context: ModelContext, index = -1): number {
    // llama aborts the process where there are no logits; this throws.
    context.logits(index)
    return this.#library.llama_sampler_sample(this.#open(), asPointer(context.address), index)
  }

  /** Tells the sampler of a token that it did not choose, such as one of the prompt. */
  accept(token: number): void {
    this.#library.llama_sampler_accept(this.#open(), token)
  }

  /** Forgets all accepted tokens and starts again with the seed. */
  reset(): void {
    this.#library.llama_sampler_reset(this.#open())
  }

  /** Frees the chain; harmless when called again. */
  release(): void {
    if (this.#released) return
    this.#released = true
    this.#library.llama_sampler_free(this.#chain)
  }

  #open(): Pointer {
    if (this.#released) throw new Error("The sampler was used after its release.")
    return this.#chain
  }
}

/** Makes a sampler, which is the caller's to release. */
export const openSampler = (model: SampledModel, options: SamplerOptions): Sampler =>
  new Sampler(buildChain(model, options))

/** The chain of sampling.cpp `common_sampler_init` (llama.cpp v0.5.0) with its default order. */
const buildChain = (model: SampledModel, options: SamplerOptions): Address => {
  const number = (given: number | undefined, key: string, otherwise: number): number =>
    given ?? modelDefault(model, key) ?? otherwise
  const repeatPenalty = number(options.repeatPenalty, "penalty_repeat", 1)
  if (!(repeatPenalty > 0 && Number.isFinite(repeatPenalty))) {
    throw new RangeError(`The repeat penalty is ${repeatPenalty}: it must be above 0; 1 is none.`)
  }
  const library = llama()
  const chain = library.ls_sampler_chain_new() as Pointer
  const add = (sampler: Pointer | bigint | null): void =>
    library.llama_sampler_chain_add(chain, sampler as Pointer)
  const biases = forbidden(model, options)
  if (biases.length > 0) {
    // llama_logit_bias: int32 token, float bias.
    const block = new DataView(new ArrayBuffer(biases.length * 8))
    biases.forEach((token, index) => {
      block.setInt32(index * 8, token, true)
      block.setFloat32(index * 8 + 4, Number.NEGATIVE_INFINITY, true)
    })
    add(
      library.llama_sampler_init_logit_bias(
        model.vocabSize,
        biases.length,
        new Uint8Array(block.buffer),
      ),
    )
  }
  const lastN = number(options.repeatLastN, "penalty_last_n", 64)
  add(library.llama_sampler_init_penalties(model.vocabSize, lastN, repeatPenalty, 0, 0))
  const temp = number(options.temp, "temp", 0.8)
  if (temp <= 0) {
    add(library.llama_sampler_init_greedy())
    return chain as Address
  }
  add(library.llama_sampler_init_top_k(number(options.topK, "top_k", 40)))
  add(library.llama_sampler_init_top_p(number(options.topP, "top_p", 0.95), 0))
  add(library.llama_sampler_init_min_p(number(options.minP, "min_p", 0.05), 0))
  add(library.llama_sampler_init_temp(temp))
  add(library.llama_sampler_init_dist((options.seed ?? -1) >>> 0))
  return chain as Address
}

const modelDefault = (model: SampledModel, key: string): number | undefined => {
  const text = model.metadata(`general.sampling.${key}`)
  const value = text === undefined ? Number.NaN : Number.parseFloat(text)
  return Number.isNaN(value) ? undefined : value
}

/** Tokens that must never be chosen: those the model suppresses, and those that end the text. */
const forbidden = (model: SampledModel, options: SamplerOptions): ReadonlyArray<number> => {
  const library = llama()
  const vocab = library.llama_model_get_vocab(asPointer(model.address)) as Pointer
  const count = new Int32Array(1)
  const address = library.llama_vocab_get_suppress_tokens(vocab, count) as Pointer | null
  const tokens: Array<number> = []
  for (let i = 0; address !== null && i < count[0]!; i++) tokens.push(read.i32(address, i * 4))
  // As upstream: without an end token there is nothing to ignore.
  if (options.ignoreEos && library.llama_vocab_eos(vocab) !== -1) {
    for (let token = 0; token < model.vocabSize; token++) {
      if (model.isEndOfGeneration(token)) tokens.push(token)
    }
  }
  return tokens
}
