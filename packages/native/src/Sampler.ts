/** Chooses the next token, by a chain of llama's samplers. */
import { type Pointer, ptr, read } from "bun:ffi"
import { type Address, asPointer, cString } from "./io.ts"
import { llama } from "./libllama.ts"
import type { ModelContext } from "./ModelContext.ts"
import { TaggedError } from "./taggedError.ts"

/** Samplers of a chain, by llama-cli's names for `--samplers`. */
export const samplerNames = [
  "penalties",
  "dry",
  "top_n_sigma",
  "top_k",
  "typ_p",
  "top_p",
  "min_p",
  "xtc",
  "temperature",
  "infill",
  "adaptive_p",
] as const

export type SamplerName = (typeof samplerNames)[number]

/**
 * By llama-cli's names. What is not given comes from the model's metadata (`general.sampling.*`), and
 * else is llama-cli's default, which is named here.
 */
export interface SamplerOptions {
  /** Temperature: 0.8; 0 or less always takes the most likely token. */
  readonly temp?: number
  /** How far the temperature goes down and up with the entropy of the choice: 0, not at all. */
  readonly dynatempRange?: number
  /** How entropy becomes temperature then: 1. */
  readonly dynatempExp?: number
  /** Keeps the k most likely tokens: 40; 0 keeps all. */
  readonly topK?: number
  /** Keeps the most likely tokens that together reach this probability: 0.95; 1 keeps all. */
  readonly topP?: number
  /** Drops tokens less likely than this part of the most likely one: 0.05; 0 keeps all. */
  readonly minP?: number
  /** Keeps the tokens whose surprise is nearest to the expected one, that together reach this probability: 1 keeps all. */
  readonly typicalP?: number
  /** Keeps tokens whose logit is at most so many standard deviations below the greatest: -1 keeps all. */
  readonly topNSigma?: number
  /** How likely it is, each time, that all tokens above `xtcThreshold` but the least likely of them are dropped: 0. */
  readonly xtcProbability?: number
  /** A probability: 0.1; above 0.5 drops none. */
  readonly xtcThreshold?: number
  /** Divides the logits of tokens that were there lately: 1, no penalty; above 0. */
  readonly repeatPenalty?: number
  /** How many tokens back "lately" reaches, into the prompt too: 64; 0 turns all penalties off. */
  readonly repeatLastN?: number
  /** Taken from the logit of a token that was there lately: 0. */
  readonly presencePenalty?: number
  /** The same, for each time that it was there: 0. */
  readonly frequencyPenalty?: number
  /** Penalty for tokens that would go on with a repetition: 0, none. */
  readonly dryMultiplier?: number
  /** By which it grows with each token of the repetition: 1.75. */
  readonly dryBase?: number
  /** Repetitions up to this length cost nothing: 2. */
  readonly dryAllowedLength?: number
  /** How many tokens back repetitions are looked for: 64; 0 turns the penalty off. */
  readonly dryPenaltyLastN?: number
  /** Texts that end a repetition: line feed, `:`, `"`, `*`. */
  readonly drySequenceBreakers?: ReadonlyArray<string>
  /** Version of Mirostat, which replaces all samplers but penalties of tokens: 0, none; 1 or 2. */
  readonly mirostat?: 0 | 1 | 2
  /** Its target entropy: 5. */
  readonly mirostatTau?: number
  /** Its learning rate: 0.1. */
  readonly mirostatEta?: number
  /** Probability near which `adaptive_p` chooses: -1, none. */
  readonly adaptiveTarget?: number
  /** How slowly that adapts, from 0 to 0.99: 0.9. */
  readonly adaptiveDecay?: number
  /** In this order: penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, xtc, temperature. */
  readonly samplers?: ReadonlyArray<SamplerName>
  /** Added to the logits of tokens, `[token, bias]`; `-Infinity` forbids one. */
  readonly logitBias?: ReadonlyArray<readonly [token: number, bias: number]>
  /** Grammar in GBNF that the text follows, from its rule `root`. */
  readonly grammar?: string
  /** 0 to 2^32 - 2; -1, the default, is a random one. */
  readonly seed?: number
  /** Never chooses a token that ends the text. */
  readonly ignoreEos?: boolean
}

/** A chain of samplers cannot be made of the options, or chooses nothing; `message` says why. */
export class SamplerError extends TaggedError("SamplerError")<{ readonly detail: string }> {
  override get message(): string {
    return this.detail
  }
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
  readonly #grammar: Pointer | null
  #released = false

  /** It chooses among so many of the most likely tokens, and needs the logits of no others; 0: of all. */
  readonly candidateCount: number

  /** Takes over a llama_sampler_chain and, where the text has a grammar, that sampler. */
  constructor(chain: Address, grammar: Address | null, candidateCount: number) {
    this.candidateCount = candidateCount
    this.#chain = asPointer(chain)
    this.#grammar = grammar === null ? null : asPointer(grammar)
  }

  /**
   * Chooses a token from the logits at `index` of the context's last `decode` (see
   * `ModelContext.logits`), and accepts it.
   *
   * @throws {SamplerError} when samplers and grammar leave none
   */
  sample(context: ModelContext, index = -1): number {
    // llama aborts the process where there are no logits; this throws.
    context.checkOutput(index)
    const token = this.#library.ls_sample(
      this.#open(),
      this.#grammar,
      asPointer(context.address),
      index,
      context.foundRows,
    )
    if (token < 0) throw new SamplerError({ detail: `${this.#library.ls_last_error()}.` })
    return token
  }

  /** Tells the samplers of a token that they did not choose: one of the prompt, which no grammar is about. */
  accept(token: number): void {
    this.#library.llama_sampler_accept(this.#open(), token)
  }

  /** Forgets all accepted tokens and starts again with the seed. */
  reset(): void {
    this.#library.llama_sampler_reset(this.#open())
    if (this.#grammar !== null) this.#library.llama_sampler_reset(this.#grammar)
  }

  /** Frees the chain; harmless when called again. */
  release(): void {
    if (this.#released) return
    this.#released = true
    this.#library.llama_sampler_free(this.#chain)
    if (this.#grammar !== null) this.#library.llama_sampler_free(this.#grammar)
  }

  #open(): Pointer {
    if (this.#released) throw new Error("The sampler was used after its release.")
    return this.#chain
  }
}

/** Makes a sampler, which is the caller's to release. @throws {SamplerError} when the options make none */
export const openSampler = (model: SampledModel, options: SamplerOptions): Sampler => {
  const settings = settingsOf(model, options)
  const grammar = options.grammar === undefined ? null : openGrammar(model, options.grammar)
  const candidateCount = grammar === null ? candidatesOf(model, options, settings) : 0
  return new Sampler(buildChain(model, options, settings), grammar, candidateCount)
}

type Numbers = { [Key in keyof typeof defaults]: number }

/** llama-cli's defaults, and where a model's metadata may have others. */
const defaults = {
  temp: [0.8, "temp"],
  dynatempRange: [0],
  dynatempExp: [1],
  topK: [40, "top_k"],
  topP: [0.95, "top_p"],
  minP: [0.05, "min_p"],
  typicalP: [1],
  topNSigma: [-1],
  xtcProbability: [0, "xtc_probability"],
  xtcThreshold: [0.1, "xtc_threshold"],
  repeatPenalty: [1, "penalty_repeat"],
  repeatLastN: [64, "penalty_last_n"],
  presencePenalty: [0],
  frequencyPenalty: [0],
  dryMultiplier: [0],
  dryBase: [1.75],
  dryAllowedLength: [2],
  dryPenaltyLastN: [64],
  mirostat: [0, "mirostat"],
  mirostatTau: [5, "mirostat_tau"],
  mirostatEta: [0.1, "mirostat_eta"],
  adaptiveTarget: [-1],
  adaptiveDecay: [0.9],
} as const satisfies Partial<Record<keyof SamplerOptions, readonly [number, string?]>>

const settingsOf = (model: SampledModel, options: SamplerOptions): Numbers => {
  const entries = Object.entries(defaults) as [keyof Numbers, readonly [number, string?]][]
  const settings = Object.fromEntries(
    entries.map(([name, [otherwise, key]]) => [
      name,
      options[name] ?? (key === undefined ? undefined : modelDefault(model, key)) ?? otherwise,
    ]),
  ) as Numbers
  const { repeatPenalty, mirostat } = settings
  if (!(repeatPenalty > 0 && Number.isFinite(repeatPenalty))) {
    const detail = `the repeat penalty is ${repeatPenalty}: it must be above 0; 1 is none.`
    throw new SamplerError({ detail })
  }
  const odd = entries.find(([name]) => !Number.isFinite(settings[name]))
  if (odd !== undefined) {
    throw new SamplerError({ detail: `${odd[0]} is ${settings[odd[0]]}: it must be a number.` })
  }
  if (mirostat !== 0 && mirostat !== 1 && mirostat !== 2) {
    throw new SamplerError({ detail: `there is no Mirostat ${mirostat}: 0 is none, 1 and 2 are.` })
  }
  return settings
}

const vocabOf = (model: SampledModel): Pointer =>
  llama().llama_model_get_vocab(asPointer(model.address)) as Pointer

/** Texts, sets of characters and comments of a grammar: braces in them mean nothing. */
const GRAMMAR_LITERALS = /"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#.*/g

/** llama-grammar.cpp (v0.5.0) counts from the most down to the least, and for nearly ever where that is more. */
const backwardRepetition = (grammar: string): string | undefined =>
  [...grammar.replace(GRAMMAR_LITERALS, "").matchAll(/\{\s*(\d+)\s*,\s*(\d+)\s*\}/g)].find(
    ([, least, most]) => Number(least) > Number(most),
  )?.[0]

/** A call each in llama-grammar.cpp, whose stack ends somewhere above ten thousand. */
const MAX_NESTING = 1000

const isNestedTooDeep = (grammar: string): boolean => {
  let depth = 0
  for (const [mark] of grammar.replace(GRAMMAR_LITERALS, "").matchAll(/[()]/g)) {
    depth += mark === "(" ? 1 : -1
    if (depth > MAX_NESTING) return true
  }
  return false
}

const openGrammar = (model: SampledModel, text: string): Address => {
  if (isNestedTooDeep(text)) {
    const detail = `the grammar has more than ${MAX_NESTING} parentheses inside each other.`
    throw new SamplerError({ detail })
  }
  const backward = backwardRepetition(text)
  if (backward !== undefined) {
    const detail = `the grammar repeats something ${backward} times, where the second number must not be the smaller one.`
    throw new SamplerError({ detail })
  }
  const [rules, root] = [cString(text), cString("root")]
  const grammar = llama().llama_sampler_init_grammar(vocabOf(model), rules, root)
  if (grammar === null || Number(grammar) === 0) {
    const detail =
      "the grammar is no GBNF with a rule 'root', or needs a rule that it does not have, or repeats a rule in itself at its start."
    throw new SamplerError({ detail })
  }
  return Number(grammar) as Address
}

/** The chain of sampling.cpp `common_sampler_init` (llama.cpp v0.5.0). */
const buildChain = (model: SampledModel, options: SamplerOptions, numbers: Numbers): Address => {
  const library = llama()
  const chain = library.ls_sampler_chain_new() as Pointer
  const add = (sampler: Pointer | bigint | null): void =>
    library.llama_sampler_chain_add(chain, sampler as Pointer)
  const biases = biasesOf(model, options)
  if (biases.length > 0) {
    // llama_logit_bias: int32 token, float bias.
    const block = new DataView(new ArrayBuffer(biases.length * 8))
    biases.forEach(([token, bias], index) => {
      block.setInt32(index * 8, token, true)
      block.setFloat32(index * 8 + 4, bias, true)
    })
    const bytes = new Uint8Array(block.buffer)
    add(library.llama_sampler_init_logit_bias(model.vocabSize, biases.length, bytes))
  }
  const seed = (options.seed ?? -1) >>> 0
  const { mirostat, mirostatTau: tau, mirostatEta: eta, temp } = numbers
  if (mirostat !== 0) {
    add(library.llama_sampler_init_temp(temp))
    add(
      mirostat === 1
        ? library.llama_sampler_init_mirostat(model.vocabSize, seed, tau, eta, MIROSTAT_TOKENS)
        : library.llama_sampler_init_mirostat_v2(seed, tau, eta),
    )
    return chain as Address
  }
  const isAdaptive = isAdaptiveChain(options)
  const names = namesOf(model, options)
  const isGreedy = isGreedyChain(names, options, numbers)
  for (const name of names) {
    if (isGreedy && name !== "penalties" && name !== "dry" && name !== "infill") continue
    add(makeSampler(name, model, options, numbers, seed))
  }
  if (isGreedy) add(library.llama_sampler_init_greedy())
  else if (!isAdaptive) add(library.llama_sampler_init_dist(seed))
  else {
    const { adaptiveTarget, adaptiveDecay } = numbers
    add(library.llama_sampler_init_adaptive_p(adaptiveTarget, adaptiveDecay, seed))
  }
  return chain as Address
}

/** Among how many of the most likely tokens a chain chooses; 0: it may look at all. */
const candidatesOf = (model: SampledModel, options: SamplerOptions, numbers: Numbers): number => {
  const biases = biasesOf(model, options)
  if (numbers.mirostat !== 0 || biases.some(([, bias]) => bias > 0)) return 0
  const count = unbiasedCandidatesOf(model, options, numbers)
  // Tokens that are lowered, as those that end a text, may stand before any that is chosen among.
  return count === 0 ? 0 : Math.min(count + biases.length, model.vocabSize)
}

const unbiasedCandidatesOf = (
  model: SampledModel,
  options: SamplerOptions,
  numbers: Numbers,
): number => {
  const names = namesOf(model, options)
  const isGreedy = isGreedyChain(names, options, numbers)
  for (const name of names) {
    if (name === "top_k" && !isGreedy && numbers.topK > 0) {
      return Math.min(numbers.topK, model.vocabSize)
    }
    if (changesNothing(name, numbers)) continue
    if (!isGreedy || name === "penalties" || name === "dry" || name === "infill") return 0
  }
  return isGreedy ? 1 : 0
}

/** With these settings a sampler leaves logits and tokens as they are. */
const changesNothing = (name: SamplerName, numbers: Numbers): boolean => {
  switch (name) {
    case "penalties":
      return (
        numbers.repeatLastN === 0 ||
        (numbers.repeatPenalty === 1 &&
          numbers.presencePenalty === 0 &&
          numbers.frequencyPenalty === 0)
      )
    case "dry":
      return numbers.dryMultiplier === 0 || numbers.dryPenaltyLastN === 0
    case "top_n_sigma":
      return numbers.topNSigma <= 0
    case "top_k":
      return numbers.topK <= 0
    case "typ_p":
      return numbers.typicalP >= 1
    case "top_p":
      return numbers.topP >= 1
    case "min_p":
      return numbers.minP <= 0
    case "xtc":
      return numbers.xtcProbability <= 0
    default:
      return false
  }
}

const namesOf = (model: SampledModel, { samplers }: SamplerOptions): ReadonlyArray<SamplerName> =>
  (samplers ?? modelSamplers(model) ?? defaultSamplers).filter((name) => name !== "adaptive_p")

const isAdaptiveChain = ({ samplers }: SamplerOptions): boolean =>
  samplers?.includes("adaptive_p") ?? false

/** What is likeliest stays so under all but penalties, XTC and typical sampling, which may drop it. */
const isGreedyChain = (
  names: ReadonlyArray<SamplerName>,
  options: SamplerOptions,
  numbers: Numbers,
): boolean =>
  numbers.temp <= 0 &&
  numbers.xtcProbability <= 0 &&
  !(names.includes("typ_p") && !changesNothing("typ_p", numbers)) &&
  !isAdaptiveChain(options)

/** libllama takes memory for all tokens that could be looked back at, and no text has that many. */
const MAX_LAST_TOKENS = 2 ** 22

/** Upstream's `m`. */
const MIROSTAT_TOKENS = 100

const defaultSamplers: ReadonlyArray<SamplerName> = samplerNames.slice(0, 9)

const defaultBreakers = ["\n", ":", '"', "*"]

const makeSampler = (
  name: SamplerName,
  model: SampledModel,
  options: SamplerOptions,
  numbers: Numbers,
  seed: number,
): Pointer | bigint | null => {
  const library = llama()
  switch (name) {
    case "penalties":
      return library.llama_sampler_init_penalties(
        model.vocabSize,
        Math.min(numbers.repeatLastN, MAX_LAST_TOKENS),
        numbers.repeatPenalty,
        numbers.frequencyPenalty,
        numbers.presencePenalty,
      )
    case "dry": {
      const texts = (options.drySequenceBreakers ?? defaultBreakers).map(cString)
      const addresses = new BigUint64Array(texts.map((text) => BigInt(ptr(text))))
      return library.llama_sampler_init_dry(
        vocabOf(model),
        numbers.dryMultiplier,
        numbers.dryBase,
        numbers.dryAllowedLength,
        Math.min(numbers.dryPenaltyLastN, MAX_LAST_TOKENS),
        texts.length === 0 ? null : addresses,
        texts.length,
      )
    }
    case "top_n_sigma":
      return library.llama_sampler_init_top_n_sigma(numbers.topNSigma)
    case "top_k":
      return library.llama_sampler_init_top_k(numbers.topK)
    case "typ_p":
      return library.llama_sampler_init_typical(numbers.typicalP, 0)
    case "top_p":
      return library.llama_sampler_init_top_p(numbers.topP, 0)
    case "min_p":
      return library.llama_sampler_init_min_p(numbers.minP, 0)
    case "xtc":
      return library.llama_sampler_init_xtc(numbers.xtcProbability, numbers.xtcThreshold, 0, seed)
    case "temperature":
      return library.llama_sampler_init_temp_ext(
        numbers.temp,
        numbers.dynatempRange,
        numbers.dynatempExp,
      )
    case "infill":
      return library.llama_sampler_init_infill(vocabOf(model))
    case "adaptive_p":
      throw new Error("it ends a chain")
  }
}

const modelDefault = (model: SampledModel, key: string): number | undefined => {
  const text = model.metadata(`general.sampling.${key}`)
  const value = text === undefined ? Number.NaN : Number.parseFloat(text)
  return Number.isNaN(value) ? undefined : value
}

/** `general.sampling.sequence`: names with semicolons between. */
const modelSamplers = (model: SampledModel): ReadonlyArray<SamplerName> | undefined => {
  const text = model.metadata("general.sampling.sequence")
  if (text === undefined) return undefined
  const found = text.split(";").map(samplerNamed)
  return found.filter((name) => name !== undefined)
}

/** A sampler by one of the names that llama-cli knows it by: `top-k`, `topk`, `nucleus` and the like. */
export const samplerNamed = (text: string): SamplerName | undefined => {
  const plain = text.trim().toLowerCase().replaceAll(/[-_]/g, "")
  const others: Record<string, SamplerName> = {
    nucleus: "top_p",
    temp: "temperature",
    typ: "typ_p",
  }
  return others[plain] ?? samplerNames.find((name) => name.replaceAll("_", "") === plain)
}

/** What is added to logits: the caller's, and tokens that must never be chosen. */
const biasesOf = (
  model: SampledModel,
  { ignoreEos, logitBias = [] }: SamplerOptions,
): ReadonlyArray<readonly [token: number, bias: number]> => {
  const outside = logitBias.find(([token]) => !(token >= 0 && token < model.vocabSize))
  if (outside !== undefined) {
    const detail = `the model has ${model.vocabSize} tokens, and none ${outside[0]} whose logit could be changed.`
    throw new SamplerError({ detail })
  }
  const library = llama()
  const vocab = vocabOf(model)
  const count = new Int32Array(1)
  const address = library.llama_vocab_get_suppress_tokens(vocab, count) as Pointer | null
  const tokens: Array<number> = []
  for (let i = 0; address !== null && i < count[0]!; i++) tokens.push(read.i32(address, i * 4))
  // As upstream: without an end token there is nothing to ignore.
  if (ignoreEos && library.llama_vocab_eos(vocab) !== -1) {
    for (let token = 0; token < model.vocabSize; token++) {
      if (model.isEndOfGeneration(token)) tokens.push(token)
    }
  }
  return [...logitBias, ...tokens.map((token) => [token, Number.NEGATIVE_INFINITY] as const)]
}
