/** The model and its context. Names are llama-cli's (llama.cpp v0.5.0, common/arg.cpp). */
import type { KvTypeName } from "@ggml-rpc/native"
import { UsageError } from "../UsageError.ts"
import { flag, toggle } from "./Flag.ts"
import {
  choice,
  files,
  integer,
  joined,
  type Kind,
  nonEmpty,
  number,
  optionalOnOffAuto,
  path,
} from "./kinds.ts"

const MAX_I32 = 2 ** 31 - 1

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

const rope = "Rotary position embedding"

const ropeFlags = {
  ropeScaling: flag({
    name: "rope-scaling",
    env: "LLAMA_ARG_ROPE_SCALING_TYPE",
    kind: choice(["none", "linear", "yarn"]),
    about: "how positions beyond those of the training are scaled",
    unset: "the model's way",
    group: rope,
  }),
  ropeScale: flag({
    name: "rope-scale",
    env: "LLAMA_ARG_ROPE_SCALE",
    kind: number({ min: 1e-6 }),
    about: "by which factor the context grows",
    group: rope,
  }),
  ropeFreqBase: flag({
    name: "rope-freq-base",
    env: "LLAMA_ARG_ROPE_FREQ_BASE",
    kind: number({ min: 0 }),
    about: "base frequency",
    unset: "the model's",
    group: rope,
  }),
  ropeFreqScale: flag({
    name: "rope-freq-scale",
    env: "LLAMA_ARG_ROPE_FREQ_SCALE",
    kind: number({ min: 0 }),
    about: "1 / --rope-scale",
    group: rope,
  }),
  yarnOrigCtx: flag({
    name: "yarn-orig-ctx",
    env: "LLAMA_ARG_YARN_ORIG_CTX",
    kind: integer({ min: 0, max: MAX_I32 }),
    about: "YaRN: tokens that the model was trained with",
    unset: "as the model says",
    group: rope,
  }),
  yarnExtFactor: flag({
    name: "yarn-ext-factor",
    env: "LLAMA_ARG_YARN_EXT_FACTOR",
    kind: number({ min: -1 }),
    about: "YaRN: how much is extrapolated; 0: all interpolated",
    unset: "-1, the model's",
    group: rope,
  }),
  yarnAttnFactor: flag({
    name: "yarn-attn-factor",
    env: "LLAMA_ARG_YARN_ATTN_FACTOR",
    kind: number({ min: -1 }),
    about: "YaRN: by which attention is scaled",
    unset: "-1, the model's",
    group: rope,
  }),
  yarnBetaSlow: flag({
    name: "yarn-beta-slow",
    env: "LLAMA_ARG_YARN_BETA_SLOW",
    kind: number({ min: -1 }),
    about: "YaRN: high correction dimension, alpha",
    unset: "-1, the model's",
    group: rope,
  }),
  yarnBetaFast: flag({
    name: "yarn-beta-fast",
    env: "LLAMA_ARG_YARN_BETA_FAST",
    kind: number({ min: -1 }),
    about: "YaRN: low correction dimension, beta",
    unset: "-1, the model's",
    group: rope,
  }),
}

const weights = "Weights"

export interface TensorOverride {
  readonly pattern: string
  readonly device: string
}

/** `ffn_.*=CPU,attn=RPC1`: each part up to its first equals sign is a pattern. */
const tensorOverrides: Kind<ReadonlyArray<TensorOverride>> = {
  value: "PATTERN=DEVICE,…",
  read: ([given], source) =>
    given.split(",").map((part) => {
      const [, pattern, device] = /^([^=]+)=(.+)$/.exec(part) ?? []
      if (pattern === undefined || device === undefined || !isRegularExpression(pattern)) {
        throw new UsageError(
          `${source} takes a regular expression for tensors' names and a device, such as ffn_.*_exps=CPU, not '${part}'`,
        )
      }
      return { pattern, device }
    }),
}

const isRegularExpression = (text: string): boolean => {
  try {
    new RegExp(text)
    return true
  } catch {
    return false
  }
}

/** `lora.gguf:0.5`, each. */
const scaledFiles: Kind<ReadonlyArray<{ readonly path: string; readonly scale: number }>> = {
  value: "FILE:SCALE,…",
  read: ([given], source) =>
    given.split(",").map((part) => {
      const [, file, scale] = /^(.+):(-?\d*\.?\d+)$/.exec(part) ?? []
      if (file !== undefined && scale !== undefined) return { path: file, scale: Number(scale) }
      throw new UsageError(`${source} takes FILE:SCALE, such as lora.gguf:0.5, not '${part}'`)
    }),
}

const weightFlags = {
  loadMode: flag({
    name: "load-mode",
    aliases: ["-lm"],
    env: "LLAMA_ARG_LOAD_MODE",
    kind: choice(["auto", "none", "mmap", "mlock", "mmap+mlock"]),
    about: "none: read the file; mmap, or auto: map it; mlock: keep weights from being swapped out",
    unset: "auto",
    group: weights,
  }),
  mmap: toggle({
    name: "mmap",
    negations: ["--no-mmap"],
    default: "on",
    about: "whether the model file is mapped, or read (default: mapped)",
    group: weights,
  }),
  mlock: toggle({
    name: "mlock",
    about: "keep this machine's weights from being swapped out, as far as 'ulimit -l' lets it",
    group: weights,
  }),
  overrideTensor: flag({
    name: "override-tensor",
    aliases: ["-ot"],
    env: "LLAMA_ARG_OVERRIDE_TENSOR",
    kind: joined(tensorOverrides),
    about:
      "put tensors whose names a pattern finds on a device, such as ffn_.*=RPC1 or ffn_.*_exps=CPU, instead of with their layer; repeatable",
    group: weights,
  }),
  cpuMoe: toggle({
    name: "cpu-moe",
    aliases: ["-cmoe"],
    env: "LLAMA_ARG_CPU_MOE",
    about: "keep the weights of all experts on this machine's CPU",
    group: weights,
  }),
  nCpuMoe: flag({
    name: "n-cpu-moe",
    aliases: ["-ncmoe"],
    env: "LLAMA_ARG_N_CPU_MOE",
    kind: integer({ min: 0, max: 10_000 }),
    about: "the same for the first N layers",
    group: weights,
  }),
  lora: flag({
    name: "lora",
    kind: files,
    about: "LoRA adapters to compute with; repeatable",
    group: weights,
  }),
  loraScaled: flag({
    name: "lora-scaled",
    kind: joined(scaledFiles),
    about: "the same, each with how much of it; repeatable",
    group: weights,
  }),
}

export const contextFlags = {
  contextSize: flag({
    name: "ctx-size",
    aliases: ["-c"],
    env: "LLAMA_ARG_CTX_SIZE",
    kind: integer({ min: 0, max: MAX_I32 }),
    about: "tokens of context, rounded up to a multiple of 256; 0: all the model was trained with",
    unset: "that, or what fits in memory",
    group: modelGroup,
  }),
  batchSize: flag({
    name: "batch-size",
    aliases: ["-b"],
    env: "LLAMA_ARG_BATCH",
    kind: integer({ min: 1, max: MAX_I32 }),
    about: "most tokens of one prompt batch",
    unset: "2048",
    group: modelGroup,
  }),
  ubatchSize: flag({
    name: "ubatch-size",
    aliases: ["-ub"],
    env: "LLAMA_ARG_UBATCH",
    kind: integer({ min: 1, max: MAX_I32 }),
    about: "most tokens computed at once",
    unset: "512; 128 over several servers",
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
  kvOffload: toggle({
    name: "kv-offload",
    aliases: ["-kvo"],
    negations: ["-nkvo", "--no-kv-offload"],
    env: "LLAMA_ARG_KV_OFFLOAD",
    default: "on",
    about:
      "whether the KV cache is where its layers are, or on this machine (default: with the layers)",
    group: modelGroup,
  }),
  ...ropeFlags,
  ...weightFlags,
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
