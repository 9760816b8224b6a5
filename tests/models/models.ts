/**
 * The models that tests and benchmarks run: random weights, llama architecture, written at the first
 * use and kept in `tests/build/models`. Same bytes on every machine.
 */
import { createHash } from "node:crypto"
import { existsSync } from "node:fs"
import { join } from "node:path"
import { constantTensor, type GgufTensorToWrite, type GgufToWrite, writeGguf } from "@ggml-rpc/gguf"
import { demoModel } from "ggml-rpc/demo-model"
import { type RandomType, randomTensor } from "./random.ts"
import {
  llamaVocabulary,
  numberedVocabulary,
  type Vocabulary,
  vocabularyMetadata,
} from "./vocabulary.ts"

/** Shape and types of a random llama model. */
export interface RandomModel {
  readonly layerCount: number
  readonly dim: number
  readonly headDim: number
  /** Key and value heads; query heads are `dim / headDim`. */
  readonly kvHeadCount: number
  /** Of the feed-forward network, or of each expert. */
  readonly ffnDim: number
  readonly experts?: { readonly count: number; readonly usedCount: number }
  /** `"llama"`: the 32000 tokens of Llama 2, as a real model has; a number: so many made-up ones. */
  readonly vocabulary: "llama" | number
  readonly contextLength: number
  /** Types of the layers' matrices, by layer, repeated. */
  readonly layerTypes: readonly RandomType[]
  readonly embeddingType: RandomType
  readonly outputType: RandomType
}

const uniform = (type: RandomType) => ({
  layerTypes: [type],
  embeddingType: type,
  outputType: type,
})

const dim512 = {
  layerCount: 8,
  dim: 512,
  headDim: 64,
  kvHeadCount: 8,
  ffnDim: 1024,
  vocabulary: "llama",
  contextLength: 4096,
} as const

const dim2048 = {
  layerCount: 16,
  dim: 2048,
  headDim: 64,
  kvHeadCount: 4,
  ffnDim: 5632,
  vocabulary: "llama",
  contextLength: 4096,
} as const

const dim1024 = { ...dim2048, dim: 1024, ffnDim: 2816 } as const

const experts = (layerCount: number) =>
  ({
    ...{ layerCount, dim: 1024, headDim: 64, kvHeadCount: 4, ffnDim: 1024 },
    experts: { count: 16, usedCount: 4 },
    vocabulary: 4096,
    contextLength: 4096,
  }) as const

export const randomModels = {
  /** 260 K parameters, 1 MB: shows what RPC itself costs. */
  tiny: {
    layerCount: 4,
    dim: 64,
    headDim: 32,
    kvHeadCount: 1,
    ffnDim: 192,
    vocabulary: 512,
    contextLength: 4096,
    ...uniform("F32"),
  },
  /** 13 MB of all four types, with grouped queries: for interoperation. */
  mixed: {
    layerCount: 8,
    dim: 256,
    headDim: 32,
    kvHeadCount: 2,
    ffnDim: 768,
    vocabulary: 8192,
    contextLength: 4096,
    layerTypes: ["F16", "Q8_0", "Q4_0", "F32"],
    embeddingType: "Q4_0",
    outputType: "Q8_0",
  },
  /** 57 MB. */
  q8_0: { ...dim512, ...uniform("Q8_0") },
  /** 31 MB. */
  q4_0: { ...dim512, ...uniform("Q4_0") },
  /** 23 MB of 1536 experts in 24 layers: little to compute, and ids in every layer. */
  moe: {
    layerCount: 24,
    dim: 128,
    headDim: 32,
    kvHeadCount: 4,
    ffnDim: 32,
    experts: { count: 64, usedCount: 8 },
    vocabulary: 4096,
    contextLength: 4096,
    ...uniform("Q8_0"),
  },
  /** 836 M parameters, 16 layers that can be cut: for speed over several servers. 889 MB. */
  deep: { ...dim2048, ...uniform("Q8_0") },
  /** 471 MB. */
  deep_q4_0: { ...dim2048, ...uniform("Q4_0") },
  /** 471 MB. */
  deep_q4_k: { ...dim2048, ...uniform("Q4_K") },
  /** The same with a quarter of the parameters: for quick looks. */
  middle: { ...dim1024, ...uniform("Q8_0") },
  middle_q4_0: { ...dim1024, ...uniform("Q4_0") },
  middle_q4_k: { ...dim1024, ...uniform("Q4_K") },
  /** 16 experts a layer, of which a token meets 4: matrices of experts that a server repacks. 243 MB and 64 MB. */
  experts_q4_0: { ...experts(8), ...uniform("Q4_0") },
  experts_q4_k: { ...experts(8), ...uniform("Q4_K") },
  few_experts_q4_0: { ...experts(2), ...uniform("Q4_0") },
  /** 890 MB: for loading. */
  large: {
    layerCount: 8,
    dim: 2560,
    headDim: 64,
    kvHeadCount: 40,
    ffnDim: 7552,
    vocabulary: "llama",
    contextLength: 4096,
    ...uniform("Q8_0"),
  },
} as const satisfies Record<string, RandomModel>

export type ModelName = keyof typeof randomModels | "demo"

/** Part of every file's name; raise it when the same shapes are to give other bytes. */
const REVISION = 1
const SEED = 42

/** The path of a model, written first if it is not there: a second for 600 MB. */
export const ensureModel = async (name: ModelName): Promise<string> => {
  if (name === "demo") return writeDemo()
  const model: RandomModel = randomModels[name]
  const path = cachedPath(name, JSON.stringify([REVISION, SEED, model]))
  if (existsSync(path)) return path
  writeGguf(path, await randomModel(name, model))
  return path
}

/** The demo model is small, and its words change: written each time. */
const writeDemo = (): string => {
  const path = join(import.meta.dir, "..", "build", "models", "demo.gguf")
  writeGguf(path, demoModel())
  return path
}

const cachedPath = (name: string, inputs: string): string => {
  const hash = createHash("sha256").update(inputs).digest("hex").slice(0, 12)
  return join(import.meta.dir, "..", "build", "models", `${name}-${hash}.gguf`)
}

/** What `ensureModel` writes. */
export const randomModel = async (name: string, model: RandomModel): Promise<GgufToWrite> => {
  const { vocabulary: source } = model
  const vocabulary = source === "llama" ? await llamaVocabulary() : numberedVocabulary(source)
  return {
    metadata: metadataOf(name, model, vocabulary),
    tensors: randomModelTensors(model, vocabulary.tokens.length),
  }
}

export const randomModelTensors = (
  model: RandomModel,
  vocabularySize: number,
): readonly GgufTensorToWrite[] => {
  const { dim, layerCount, embeddingType, outputType } = model
  const layers = Array.from({ length: layerCount }, (_, layer) => layerTensors(model, layer))
  return [
    // Deviation 1: an embedding is an activation, not the summand of one.
    randomTensor("token_embd.weight", embeddingType, [dim, vocabularySize], SEED, 1),
    ...layers.flat(),
    constantTensor("output_norm.weight", "F32", [dim], 1),
    randomTensor("output.weight", outputType, [dim, vocabularySize], SEED),
  ]
}

const layerTensors = (model: RandomModel, layer: number): readonly GgufTensorToWrite[] => {
  const { dim, layerTypes } = model
  const kvDim = model.kvHeadCount * model.headDim
  const type = layerTypes[layer % layerTypes.length]!
  const matrix = (name: string, ...ne: readonly number[]) =>
    randomTensor(`blk.${layer}.${name}.weight`, type, ne, SEED)
  const norm = (name: string) => constantTensor(`blk.${layer}.${name}.weight`, "F32", [dim], 1)
  return [
    norm("attn_norm"),
    matrix("attn_q", dim, dim),
    matrix("attn_k", dim, kvDim),
    matrix("attn_v", dim, kvDim),
    matrix("attn_output", dim, dim),
    norm("ffn_norm"),
    ...feedForwardTensors(model, matrix),
  ]
}

const feedForwardTensors = (
  { dim, ffnDim, experts }: RandomModel,
  matrix: (name: string, ...ne: readonly number[]) => GgufTensorToWrite,
): readonly GgufTensorToWrite[] =>
  experts === undefined
    ? [
        matrix("ffn_gate", dim, ffnDim),
        matrix("ffn_up", dim, ffnDim),
        matrix("ffn_down", ffnDim, dim),
      ]
    : [
        matrix("ffn_gate_inp", dim, experts.count),
        matrix("ffn_gate_exps", dim, ffnDim, experts.count),
        matrix("ffn_up_exps", dim, ffnDim, experts.count),
        matrix("ffn_down_exps", ffnDim, dim, experts.count),
      ]

const metadataOf = (
  name: string,
  model: RandomModel,
  vocabulary: Vocabulary,
): GgufToWrite["metadata"] => {
  const uint32 = (value: number) => ({ type: "uint32", value }) as const
  const { experts } = model
  return [
    ["general.architecture", { type: "string", value: "llama" }],
    ["general.name", { type: "string", value: `ggml-rpc test model ${name}` }],
    ["general.description", { type: "string", value: "Random weights, for tests." }],
    ["llama.context_length", uint32(model.contextLength)],
    ["llama.embedding_length", uint32(model.dim)],
    ["llama.block_count", uint32(model.layerCount)],
    ["llama.feed_forward_length", uint32(model.ffnDim)],
    ["llama.attention.head_count", uint32(model.dim / model.headDim)],
    ["llama.attention.head_count_kv", uint32(model.kvHeadCount)],
    ["llama.attention.layer_norm_rms_epsilon", { type: "float32", value: 1e-5 }],
    ["llama.rope.dimension_count", uint32(model.headDim)],
    ["llama.vocab_size", uint32(vocabulary.tokens.length)],
    ...(experts === undefined
      ? []
      : ([
          ["llama.expert_count", uint32(experts.count)],
          ["llama.expert_used_count", uint32(experts.usedCount)],
        ] as const)),
    ...vocabularyMetadata(vocabulary),
  ]
}
