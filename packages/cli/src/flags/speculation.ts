/** Guesses of the next tokens. Names are llama-server's (llama.cpp v0.5.0, common/arg.cpp), and so are the defaults. */
import { UsageError } from "../UsageError.ts"
import { flag } from "./Flag.ts"
import { integer, joined, type Kind } from "./kinds.ts"

const speculation = "Speculation"

export const speculationTypes = ["none", "ngram-simple"] as const
export type SpeculationType = (typeof speculationTypes)[number]

const types: Kind<ReadonlyArray<SpeculationType>> = {
  value: "TYPE,…",
  choices: speculationTypes,
  read: ([given], source) =>
    given.split(",").map((part) => {
      const found = speculationTypes.find((name) => name === part.trim())
      if (found !== undefined) return found
      throw new UsageError(`${source} takes ${speculationTypes.join(" or ")}, not '${part.trim()}'`)
    }),
}

const size = { min: 1, max: 1024 } as const

/** For every command that generates. */
export const speculationFlags = {
  specType: flag({
    name: "spec-type",
    env: "LLAMA_ARG_SPEC_TYPE",
    kind: joined(types),
    about:
      "guess tokens to come, and compute several at once; what is said stays the same. ngram-simple: what followed the last time that the text stood so. Repeatable",
    unset: "none",
    group: speculation,
  }),
  specNgramSimpleSizeN: flag({
    name: "spec-ngram-simple-size-n",
    kind: integer(size),
    about: "ngram-simple: so many tokens must have been there before",
    default: "12",
    group: speculation,
  }),
  specNgramSimpleSizeM: flag({
    name: "spec-ngram-simple-size-m",
    kind: integer(size),
    about: "ngram-simple: most tokens guessed at once; fewer where guesses turn out wrong",
    default: "48",
    group: speculation,
  }),
}
