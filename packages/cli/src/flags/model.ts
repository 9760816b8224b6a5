/** The model and its context. Names are llama-cli's (llama.cpp v0.5.0, common/arg.cpp). */
import type { KvTypeName } from "@ggml-rpc/native"
import { flag, toggle } from "./Flag.ts"
import { choice, integer, nonEmpty, optionalOnOffAuto, path } from "./kinds.ts"

export const modelGroup = "Model and context"

/** All that names a model: one on the command line makes those of weaker sources void. */
export const modelRivals = "model"

/** Names as in native's `kvTypes`. */
export const kvTypeNames = [
  "f32",
  "f16",
  "bf16",
  "q8_0",
  "q4_0",
  "q4_1",
  "iq4_nl",
  "q5_0",
  "q5_1",
] as const satisfies ReadonlyArray<KvTypeName>

export const contextFlags = {
  contextSize: flag({
    name: "ctx-size",
    aliases: ["-c"],
    env: "LLAMA_ARG_CTX_SIZE",
    kind: integer({ min: 0, max: 2 ** 31 - 1 }),
    about: "tokens of context, rounded up to a multiple of 256; 0: all the model was trained with",
    unset: "that, or what fits in memory",
    group: modelGroup,
  }),
  batchSize: flag({
    name: "batch-size",
    aliases: ["-b"],
    env: "LLAMA_ARG_BATCH",
    kind: integer({ min: 1, max: 2 ** 31 - 1 }),
    about: "most tokens of one prompt batch",
    unset: "2048",
    group: modelGroup,
  }),
  ubatchSize: flag({
    name: "ubatch-size",
    aliases: ["-ub"],
    env: "LLAMA_ARG_UBATCH",
    kind: integer({ min: 1, max: 2 ** 31 - 1 }),
    about: "most tokens computed at once",
    unset: "512",
    group: modelGroup,
  }),
  flashAttention: flag({
    name: "flash-attn",
    aliases: ["-fa"],
    env: "LLAMA_ARG_FLASH_ATTN",
    kind: optionalOnOffAuto,
    about: "Flash Attention; alone it means on",
    unset: "auto",
    group: modelGroup,
  }),
  typeK: flag({
    name: "cache-type-k",
    aliases: ["-ctk"],
    env: "LLAMA_ARG_CACHE_TYPE_K",
    kind: choice(kvTypeNames),
    about: `type of the K cache: ${kvTypeNames.join(", ")}`,
    unset: "f16",
    group: modelGroup,
  }),
  typeV: flag({
    name: "cache-type-v",
    aliases: ["-ctv"],
    env: "LLAMA_ARG_CACHE_TYPE_V",
    kind: choice(kvTypeNames),
    about: "type of the V cache, the same names",
    unset: "f16",
    group: modelGroup,
  }),
  mmap: toggle({
    name: "mmap",
    negations: ["--no-mmap"],
    default: "on",
    about: "whether the model file is mapped, or read (default: mapped)",
    group: modelGroup,
  }),
}

export const modelFile = flag({
  name: "model",
  rivals: modelRivals,
  aliases: ["-m"],
  env: "LLAMA_ARG_MODEL",
  kind: path,
  about: "the GGUF file; may also be given without -m",
  group: modelGroup,
})

/** Models by name, as llama-cli takes them. */
export const nameFlags = {
  hfRepo: flag({
    name: "hf-repo",
    rivals: modelRivals,
    aliases: ["-hf", "-hfr"],
    env: "LLAMA_ARG_HF_REPO",
    kind: nonEmpty("USER/REPO[:QUANT]"),
    about:
      "a model of Hugging Face, downloaded once; without a quantization Q4_K_M, else Q8_0, else the first",
    group: modelGroup,
  }),
  hfFile: flag({
    name: "hf-file",
    rivals: modelRivals,
    aliases: ["-hff"],
    env: "LLAMA_ARG_HF_FILE",
    kind: path,
    about: "this file of the repository, instead of a quantization",
    group: modelGroup,
  }),
  modelUrl: flag({
    name: "model-url",
    rivals: modelRivals,
    aliases: ["-mu"],
    env: "LLAMA_ARG_MODEL_URL",
    kind: nonEmpty("URL"),
    about: "a model by its URL, downloaded once; with -m to that file",
    group: modelGroup,
  }),
  hfToken: flag({
    name: "hf-token",
    aliases: ["-hft"],
    kind: nonEmpty("TOKEN"),
    about: "token for gated and private models",
    unset: "what HF_TOKEN holds",
    group: modelGroup,
  }),
  offline: toggle({
    name: "offline",
    env: "LLAMA_ARG_OFFLINE",
    about: "use models that are on the disk, and ask no server for others",
    group: modelGroup,
  }),
}
