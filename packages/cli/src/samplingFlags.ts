/**
 * How the next token is chosen: llama-cli's flags (llama.cpp v0.5.0, common/arg.cpp), for every command that generates.
 */
import { type Flag, integer, nonEmpty, number, toggle } from "./flagKinds.ts"
import { UsageError } from "./UsageError.ts"

export const generation = "Generation"
const sampling = "Sampling"

const MAX_I32 = 2 ** 31 - 1

/** `15043+1`, `15043-0.5` or `15043-inf`. */
const logitBias: Flag<Array<readonly [number, number]> | undefined> = {
  name: "logit-bias",
  aliases: ["-l"],
  value: "ID±BIAS",
  isList: true,
  about:
    "make a token likelier (15043+1), less likely (15043-1) or impossible (15043-inf); repeatable",
  group: sampling,
  parse: (given) =>
    given.split(",").map((part) => {
      const [, token, sign, amount] = /^\s*(\d+)([+-])(\d*\.?\d+|inf)\s*$/i.exec(part) ?? []
      if (token === undefined || amount === undefined) {
        throw new UsageError(
          `--logit-bias takes a token's number and what to add, such as 15043+1 or 15043-inf, not '${given}'`,
        )
      }
      const size = amount.toLowerCase() === "inf" ? Number.POSITIVE_INFINITY : Number(amount)
      return [Number(token), sign === "-" ? -size : size] as const
    }),
}

/** No text of a command line has it. */
const TEXT_JOINER = "\0"

/** Texts, one each time. */
const drySequenceBreakers: Flag<Array<string> | undefined> = {
  name: "dry-sequence-breaker",
  aliases: [],
  value: "TEXT",
  isList: true,
  joiner: TEXT_JOINER,
  about: "a text that ends a repetition, instead of the usual ones; repeatable; 'none' for none",
  group: sampling,
  parse: (given) => (given === "none" ? [] : given.split(TEXT_JOINER)),
}

export const samplingFlags = {
  ignoreEos: toggle({
    name: "ignore-eos",
    aliases: [],
    about: "never let the model end the text",
    group: generation,
  }),
  seed: integer(
    {
      name: "seed",
      aliases: ["-s"],
      about: "random seed; -1: another one each time (default)",
      group: generation,
    },
    { min: -1, max: 2 ** 32 - 1 },
  ),
  temp: number(
    {
      name: "temp",
      aliases: ["--temperature"],
      about: "temperature; 0 or less always takes the likeliest token (default: 0.8)",
      group: generation,
    },
    { min: Number.NEGATIVE_INFINITY },
  ),
  topK: integer(
    {
      name: "top-k",
      aliases: [],
      about: "choose among the N likeliest tokens; 0: all (default: 40)",
      group: sampling,
    },
    { min: 0, max: MAX_I32 },
  ),
  topP: number(
    {
      name: "top-p",
      aliases: [],
      about: "choose among the likeliest tokens that add up to X; 1: all (default: 0.95)",
      group: sampling,
    },
    { min: 0, max: 1 },
  ),
  minP: number(
    {
      name: "min-p",
      aliases: [],
      about: "drop tokens below X times the likeliest one; 0: none (default: 0.05)",
      group: sampling,
    },
    { min: 0, max: 1 },
  ),
  typicalP: number(
    {
      name: "typical",
      aliases: ["--typical-p"],
      about: "choose among the tokens of typical surprise that add up to X; 1: all (default)",
      group: sampling,
    },
    { min: 0, max: 1 },
  ),
  topNSigma: number(
    {
      name: "top-nsigma",
      aliases: ["--top-n-sigma"],
      about: "drop tokens X standard deviations below the likeliest one; -1: none (default)",
      group: sampling,
    },
    { min: -1 },
  ),
  xtcProbability: number(
    {
      name: "xtc-probability",
      aliases: [],
      about: "how often all likely tokens but the least of them are dropped; 0: never (default)",
      group: sampling,
    },
    { min: 0, max: 1 },
  ),
  xtcThreshold: number(
    {
      name: "xtc-threshold",
      aliases: [],
      about: "what is likely for that (default: 0.1); above 0.5: nothing",
      group: sampling,
    },
    { min: 0, max: 1 },
  ),
  repeatPenalty: number(
    {
      name: "repeat-penalty",
      aliases: [],
      about: "make tokens that were there lately less likely; 1: off (default)",
      group: sampling,
    },
    { min: 1e-6 },
  ),
  repeatLastN: integer(
    {
      name: "repeat-last-n",
      aliases: [],
      about: "how many tokens back 'lately' reaches, into the prompt too (default: 64)",
      group: sampling,
    },
    { min: 0, max: MAX_I32 },
  ),
  presencePenalty: number(
    {
      name: "presence-penalty",
      aliases: [],
      about: "taken from the logit of a token that was there lately; 0: off (default)",
      group: sampling,
    },
    { min: Number.NEGATIVE_INFINITY },
  ),
  frequencyPenalty: number(
    {
      name: "frequency-penalty",
      aliases: [],
      about: "the same for each time that it was there; 0: off (default)",
      group: sampling,
    },
    { min: Number.NEGATIVE_INFINITY },
  ),
  dryMultiplier: number(
    {
      name: "dry-multiplier",
      aliases: [],
      about: "penalty for going on with a repetition (DRY); 0: off (default)",
      group: sampling,
    },
    { min: 0 },
  ),
  dryBase: number(
    {
      name: "dry-base",
      aliases: [],
      about: "by which it grows with each token (default: 1.75)",
      group: sampling,
    },
    { min: 1 },
  ),
  dryAllowedLength: integer(
    {
      name: "dry-allowed-length",
      aliases: [],
      about: "tokens that may repeat at no cost (default: 2)",
      group: sampling,
    },
    { min: 0, max: MAX_I32 },
  ),
  dryPenaltyLastN: integer(
    {
      name: "dry-penalty-last-n",
      aliases: [],
      about: "how many tokens back repetitions are looked for; 0: off (default: 64)",
      group: sampling,
    },
    { min: 0, max: MAX_I32 },
  ),
  drySequenceBreakers,
  dynatempRange: number(
    {
      name: "dynatemp-range",
      aliases: [],
      about: "how far the temperature moves with the entropy; 0: off (default)",
      group: sampling,
    },
    { min: 0 },
  ),
  dynatempExp: number(
    {
      name: "dynatemp-exp",
      aliases: [],
      about: "how entropy becomes temperature (default: 1)",
      group: sampling,
    },
    { min: 0 },
  ),
  mirostat: integer(
    {
      name: "mirostat",
      aliases: [],
      about: "Mirostat 1 or 2 instead of all other ways to choose; 0: off (default)",
      group: sampling,
    },
    { min: 0, max: 2 },
  ),
  mirostatEta: number(
    {
      name: "mirostat-lr",
      aliases: [],
      about: "its learning rate, eta (default: 0.1)",
      group: sampling,
    },
    { min: 0 },
  ),
  mirostatTau: number(
    {
      name: "mirostat-ent",
      aliases: [],
      about: "its target entropy, tau (default: 5)",
      group: sampling,
    },
    { min: 0 },
  ),
  adaptiveTarget: number(
    {
      name: "adaptive-target",
      aliases: [],
      about: "probability near which the sampler adaptive_p chooses; -1: off (default)",
      group: sampling,
    },
    { min: -1, max: 1 },
  ),
  adaptiveDecay: number(
    {
      name: "adaptive-decay",
      aliases: [],
      about: "how slowly it adapts (default: 0.9)",
      group: sampling,
    },
    { min: 0, max: 0.99 },
  ),
  samplers: nonEmpty({
    name: "samplers",
    aliases: [],
    value: "A;B;…",
    about:
      "samplers, in this order (default: penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, xtc, temperature)",
    group: sampling,
  }),
  logitBias,
  grammar: nonEmpty({
    name: "grammar",
    aliases: [],
    value: "GBNF",
    about: "grammar that the text follows, from its rule 'root'",
    group: sampling,
  }),
  grammarFile: nonEmpty({
    name: "grammar-file",
    aliases: [],
    value: "FILE",
    about: "file with such a grammar",
    group: sampling,
  }),
}
