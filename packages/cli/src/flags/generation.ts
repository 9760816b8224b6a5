/** The prompt, and how the next token is chosen: llama-cli's flags (llama.cpp v0.5.0, common/arg.cpp), for commands that generate. */
import { UsageError } from "../UsageError.ts"
import { flag, toggle } from "./Flag.ts"
import { integer, joined, type Kind, nonEmpty, number, path, text, texts } from "./kinds.ts"

const prompt = "Prompt"
const generation = "Generation"
const sampling = "Sampling"

const MAX_I32 = 2 ** 31 - 1

/** `15043+1`, `15043-0.5` or `15043-inf`. */
const logitBias: Kind<ReadonlyArray<readonly [number, number]>> = {
  value: "ID±BIAS",
  read: ([given], source) =>
    given.split(",").map((part) => {
      const [, token, sign, amount] = /^\s*(\d+)([+-])(\d*\.?\d+|inf)\s*$/i.exec(part) ?? []
      if (token === undefined || amount === undefined) {
        throw new UsageError(
          `${source} takes a token's number and what to add, such as 15043+1 or 15043-inf, not '${given}'`,
        )
      }
      const size = amount.toLowerCase() === "inf" ? Number.POSITIVE_INFINITY : Number(amount)
      return [Number(token), sign === "-" ? -size : size] as const
    }),
}

const sequenceBreakers: Kind<ReadonlyArray<string>> = {
  ...texts("TEXT"),
  read: (given) => (given.length === 1 && given[0] === "none" ? [] : given),
}

export const promptFlags = {
  prompt: flag({
    name: "prompt",
    rivals: "prompt",
    aliases: ["-p"],
    kind: text("TEXT"),
    about: "the text to continue",
    group: prompt,
  }),
  file: flag({
    name: "file",
    rivals: "prompt",
    aliases: ["-f"],
    kind: path,
    about: "read the prompt from a file, '-' for stdin (the default when it is piped)",
    group: prompt,
  }),
  displayPrompt: toggle({
    name: "display-prompt",
    negations: ["--no-display-prompt"],
    default: "on",
    about: "print the prompt before the text that continues it, on a terminal (default: it is)",
    group: prompt,
  }),
  escape: toggle({
    name: "escape",
    aliases: ["-e"],
    negations: ["--no-escape"],
    default: "on",
    about: "whether \\n, \\t, \\x41 … in the prompt turn into what they mean (default: they do)",
    group: prompt,
  }),
  reversePrompt: flag({
    name: "reverse-prompt",
    aliases: ["-r"],
    kind: texts("TEXT"),
    about: "a text that ends what is generated where it comes up; repeatable",
    group: prompt,
  }),
}

/** For one text that is gone on with. */
export const oneTextFlags = {
  promptCache: flag({
    name: "prompt-cache",
    kind: path,
    about:
      "file that keeps what the model made of this prompt and its answer, for a next run that begins with the same",
    group: prompt,
  }),
  promptCacheRo: toggle({
    name: "prompt-cache-ro",
    about: "use such a file, and leave it as it is",
    group: prompt,
  }),
}

export const samplingFlags = {
  ignoreEos: toggle({
    name: "ignore-eos",
    about: "never let the model end the text",
    group: generation,
  }),
  seed: flag({
    name: "seed",
    aliases: ["-s"],
    kind: integer({ min: -1, max: 2 ** 32 - 1 }),
    about: "random seed; -1: another one each time",
    unset: "-1",
    group: generation,
  }),
  temp: flag({
    name: "temp",
    aliases: ["--temperature"],
    env: "LLAMA_ARG_TEMPERATURE",
    kind: number({ min: Number.NEGATIVE_INFINITY }),
    about: "temperature; 0 or less always takes the likeliest token",
    unset: "0.8",
    group: generation,
  }),
  topK: flag({
    name: "top-k",
    env: "LLAMA_ARG_TOP_K",
    kind: integer({ min: 0, max: MAX_I32 }),
    about: "choose among the N likeliest tokens; 0: all",
    unset: "40",
    group: sampling,
  }),
  topP: flag({
    name: "top-p",
    env: "LLAMA_ARG_TOP_P",
    kind: number({ min: 0, max: 1 }),
    about: "choose among the likeliest tokens that add up to X; 1: all",
    unset: "0.95",
    group: sampling,
  }),
  minP: flag({
    name: "min-p",
    env: "LLAMA_ARG_MIN_P",
    kind: number({ min: 0, max: 1 }),
    about: "drop tokens below X times the likeliest one; 0: none",
    unset: "0.05",
    group: sampling,
  }),
  typicalP: flag({
    name: "typical",
    aliases: ["--typical-p"],
    kind: number({ min: 0, max: 1 }),
    about: "choose among the tokens of typical surprise that add up to X; 1: all",
    unset: "1",
    group: sampling,
  }),
  topNSigma: flag({
    name: "top-nsigma",
    aliases: ["--top-n-sigma"],
    kind: number({ min: -1 }),
    about: "drop tokens X standard deviations below the likeliest one; -1: none",
    unset: "-1",
    group: sampling,
  }),
  xtcProbability: flag({
    name: "xtc-probability",
    kind: number({ min: 0, max: 1 }),
    about: "how often all likely tokens but the least of them are dropped; 0: never",
    unset: "0",
    group: sampling,
  }),
  xtcThreshold: flag({
    name: "xtc-threshold",
    kind: number({ min: 0, max: 1 }),
    about: "what is likely for that; above 0.5: nothing",
    unset: "0.1",
    group: sampling,
  }),
  repeatPenalty: flag({
    name: "repeat-penalty",
    env: "LLAMA_ARG_REPEAT_PENALTY",
    kind: number({ min: 1e-6 }),
    about: "make tokens that were there lately less likely; 1: off",
    unset: "1",
    group: sampling,
  }),
  repeatLastN: flag({
    name: "repeat-last-n",
    kind: integer({ min: 0, max: MAX_I32 }),
    about: "how many tokens back 'lately' reaches, into the prompt too",
    unset: "64",
    group: sampling,
  }),
  presencePenalty: flag({
    name: "presence-penalty",
    env: "LLAMA_ARG_PRESENCE_PENALTY",
    kind: number({ min: Number.NEGATIVE_INFINITY }),
    about: "taken from the logit of a token that was there lately; 0: off",
    unset: "0",
    group: sampling,
  }),
  frequencyPenalty: flag({
    name: "frequency-penalty",
    env: "LLAMA_ARG_FREQUENCY_PENALTY",
    kind: number({ min: Number.NEGATIVE_INFINITY }),
    about: "the same for each time that it was there; 0: off",
    unset: "0",
    group: sampling,
  }),
  dryMultiplier: flag({
    name: "dry-multiplier",
    kind: number({ min: 0 }),
    about: "penalty for going on with a repetition (DRY); 0: off",
    unset: "0",
    group: sampling,
  }),
  dryBase: flag({
    name: "dry-base",
    kind: number({ min: 1 }),
    about: "by which it grows with each token",
    unset: "1.75",
    group: sampling,
  }),
  dryAllowedLength: flag({
    name: "dry-allowed-length",
    kind: integer({ min: 0, max: MAX_I32 }),
    about: "tokens that may repeat at no cost",
    unset: "2",
    group: sampling,
  }),
  dryPenaltyLastN: flag({
    name: "dry-penalty-last-n",
    kind: integer({ min: 0, max: MAX_I32 }),
    about: "how many tokens back repetitions are looked for; 0: off",
    unset: "64",
    group: sampling,
  }),
  drySequenceBreakers: flag({
    name: "dry-sequence-breaker",
    kind: sequenceBreakers,
    about: "a text that ends a repetition, instead of the usual ones; repeatable; 'none' for none",
    group: sampling,
  }),
  dynatempRange: flag({
    name: "dynatemp-range",
    kind: number({ min: 0 }),
    about: "how far the temperature moves with the entropy; 0: off",
    unset: "0",
    group: sampling,
  }),
  dynatempExp: flag({
    name: "dynatemp-exp",
    kind: number({ min: 0 }),
    about: "how entropy becomes temperature",
    unset: "1",
    group: sampling,
  }),
  mirostat: flag({
    name: "mirostat",
    kind: integer({ min: 0, max: 2 }),
    about: "Mirostat 1 or 2 instead of all other ways to choose; 0: off",
    unset: "0",
    group: sampling,
  }),
  mirostatEta: flag({
    name: "mirostat-lr",
    kind: number({ min: 0 }),
    about: "its learning rate, eta",
    unset: "0.1",
    group: sampling,
  }),
  mirostatTau: flag({
    name: "mirostat-ent",
    kind: number({ min: 0 }),
    about: "its target entropy, tau",
    unset: "5",
    group: sampling,
  }),
  adaptiveTarget: flag({
    name: "adaptive-target",
    kind: number({ min: -1, max: 1 }),
    about: "probability near which the sampler adaptive_p chooses; -1: off",
    unset: "-1",
    group: sampling,
  }),
  adaptiveDecay: flag({
    name: "adaptive-decay",
    kind: number({ min: 0, max: 0.99 }),
    about: "how slowly it adapts",
    unset: "0.9",
    group: sampling,
  }),
  samplers: flag({
    name: "samplers",
    kind: nonEmpty("A;B;…"),
    about: "samplers, in this order",
    unset: "penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, xtc, temperature",
    group: sampling,
  }),
  logitBias: flag({
    name: "logit-bias",
    aliases: ["-l"],
    kind: joined(logitBias),
    about:
      "make a token likelier (15043+1), less likely (15043-1) or impossible (15043-inf); repeatable",
    group: sampling,
  }),
  grammar: flag({
    name: "grammar",
    rivals: "grammar",
    kind: nonEmpty("GBNF"),
    about: "grammar that the text follows, from its rule 'root'",
    group: sampling,
  }),
  grammarFile: flag({
    name: "grammar-file",
    rivals: "grammar",
    kind: nonEmpty("FILE"),
    about: "file with such a grammar",
    group: sampling,
  }),
  jsonSchema: flag({
    name: "json-schema",
    rivals: "grammar",
    aliases: ["-j"],
    kind: nonEmpty("SCHEMA"),
    about: "JSON schema that the text follows; {} is any JSON",
    group: sampling,
  }),
  jsonSchemaFile: flag({
    name: "json-schema-file",
    rivals: "grammar",
    aliases: ["-jf"],
    kind: path,
    about: "file with such a schema",
    group: sampling,
  }),
}

/** For every command that generates. */
export const generationFlags = {
  predict: flag({
    name: "predict",
    aliases: ["-n", "--n-predict"],
    env: "LLAMA_ARG_N_PREDICT",
    kind: integer({ min: -2, max: MAX_I32 }),
    about:
      "most tokens to generate; -1: until the text ends or the context is full; -2: that, whatever --context-shift says",
    unset: "-1",
    group: generation,
  }),
  contextShift: toggle({
    name: "context-shift",
    negations: ["--no-context-shift"],
    env: "LLAMA_ARG_CONTEXT_SHIFT",
    about:
      "where the context is full, forget the older half of what follows the first --keep tokens, and go on (default: end there)",
    group: generation,
  }),
  keepTokens: flag({
    name: "keep",
    kind: integer({ min: -1, max: MAX_I32 }),
    about: "tokens of the prompt that are not forgotten then; -1: all of it",
    unset: "0",
    group: generation,
  }),
  ...samplingFlags,
}
