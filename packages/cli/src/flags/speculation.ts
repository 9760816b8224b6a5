/** Guesses of the next tokens. Names are llama-server's (llama.cpp v0.5.0, common/arg.cpp), and so are the defaults. */
import { UsageError } from "../UsageError.ts"
import { clusterFlags } from "./cluster.ts"
import { flag } from "./Flag.ts"
import { choice, integer, joined, type Kind, names, nonEmpty, number, path } from "./kinds.ts"
import { kvTypeNames } from "./model.ts"

const speculation = "Speculation"

export const speculationTypes = ["none", "ngram-simple", "draft-simple"] as const
export type SpeculationType = (typeof speculationTypes)[number]

const types: Kind<ReadonlyArray<SpeculationType>> = {
  value: "TYPE,…",
  choices: speculationTypes,
  read: ([given], source) =>
    given.split(",").map((part) => {
      const found = speculationTypes.find((name) => name === part.trim())
      if (found !== undefined) return found
      throw new UsageError(
        `${source} takes ${speculationTypes.join(", ")}, with commas between them, not '${part.trim()}'`,
      )
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
      "guess tokens to come, and compute several at once; what is said stays the same. ngram-simple: what followed the last time that the text stood so; draft-simple: what a smaller model says. Repeatable",
    unset: "draft-simple with a draft model, else none",
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
  specDraftModel: flag({
    name: "spec-draft-model",
    aliases: ["-md", "--model-draft"],
    env: "LLAMA_ARG_SPEC_DRAFT_MODEL",
    kind: path,
    about: "a smaller model with the same vocabulary, which guesses",
    group: speculation,
  }),
  specDraftHf: flag({
    name: "spec-draft-hf",
    aliases: ["-hfd", "-hfrd", "--hf-repo-draft"],
    env: "LLAMA_ARG_SPEC_DRAFT_HF_REPO",
    kind: nonEmpty("USER/REPO[:QUANT]"),
    about: "the same of Hugging Face, as --hf-repo",
    group: speculation,
  }),
  specDraftNMax: flag({
    name: "spec-draft-n-max",
    env: "LLAMA_ARG_SPEC_DRAFT_N_MAX",
    kind: integer({ min: 0, max: 1024 }),
    about: "draft model: most tokens guessed at once; fewer where guesses turn out wrong",
    default: "3",
    group: speculation,
  }),
  specDraftNMin: flag({
    name: "spec-draft-n-min",
    env: "LLAMA_ARG_SPEC_DRAFT_N_MIN",
    kind: integer({ min: 0, max: 1024 }),
    about: "draft model: fewer guesses than that are none",
    default: "0",
    group: speculation,
  }),
  specDraftPMin: flag({
    name: "spec-draft-p-min",
    aliases: ["--draft-p-min"],
    env: "LLAMA_ARG_SPEC_DRAFT_P_MIN",
    kind: number({ min: 0, max: 1 }),
    about: "draft model: guess no further than tokens that it gives this probability",
    default: "0",
    group: speculation,
  }),
  specDraftDevice: flag({
    name: "spec-draft-device",
    aliases: ["-devd", "--device-draft"],
    kind: names("NAME,…"),
    about:
      "draft model: devices to use besides the CPU, of this machine or of servers; 'none' for none",
    unset: "this machine's",
    group: speculation,
  }),
  specDraftNgl: flag({
    name: "spec-draft-ngl",
    aliases: ["-ngld", "--gpu-layers-draft", "--n-gpu-layers-draft"],
    env: "LLAMA_ARG_N_GPU_LAYERS_DRAFT",
    kind: clusterFlags.gpuLayers.kind,
    about: "draft model: layers to put on devices",
    unset: "auto, all that fit",
    group: speculation,
  }),
  specDraftThreads: flag({
    name: "spec-draft-threads",
    aliases: ["-td", "--threads-draft"],
    kind: integer({ min: 1, max: 512 }),
    about: "draft model: threads of this machine's CPU",
    unset: "as --threads",
    group: speculation,
  }),
  specDraftTypeK: flag({
    name: "spec-draft-type-k",
    aliases: ["-ctkd", "--cache-type-k-draft"],
    env: "LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K",
    kind: choice(kvTypeNames),
    about: "draft model: type of the K cache",
    unset: "f16",
    group: speculation,
  }),
  specDraftTypeV: flag({
    name: "spec-draft-type-v",
    aliases: ["-ctvd", "--cache-type-v-draft"],
    env: "LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V",
    kind: choice(kvTypeNames),
    about: "draft model: type of the V cache",
    unset: "f16",
    group: speculation,
  }),
}
