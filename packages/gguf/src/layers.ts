import { ggufInteger, ggufString } from "./metadata.ts"
import type { GgufFile, GgufTensorInfo } from "./types.ts"

/** A model's tensor bytes by where libllama puts them. */
export interface LayerBytes {
  /** Bytes per block, index = N of `blk.N.`; as many as the model states, or as its tensors show. */
  readonly layers: readonly number[]
  /** Token embeddings and their like: libllama keeps these on the host. */
  readonly inputBytes: number
  /** Output matrix and norm: they go with the last device. Holds the copy of tied embeddings. */
  readonly outputBytes: number
  /** Neither: factors shared by all blocks, towers of other modalities. */
  readonly otherBytes: number
  /** True when the model has no output matrix, so that `token_embd` is used, and loaded, twice. */
  readonly tiedOutput: boolean
}

/** As many blocks as libllama takes (LLAMA_MAX_LAYERS, llama.cpp v0.5.0 src/llama-hparams.h). */
const MAX_LAYERS = 512

const BLOCK = /^(?:enc\.|dec\.)?blk\.(\d{1,4})\./
// The layer classes of llama.cpp v0.5.0 src/llama-arch.cpp (LLM_TENSOR_LAYER_INPUT and _OUTPUT).
const INPUT = /^(token_embd|position_embd|token_types|per_layer_token_embd|masked_embd_\w+|hrm)\./
const OUTPUT =
  /^(output|output_\w+|cls|cls\.\w+|enc\.output_norm|dec\.output_norm|dense_[23]|altup_\w+)\.(weight|bias|scale)$/

/** Exact bytes per block, input and output of a model, for the planner. */
export const layerBytes = (gguf: GgufFile): LayerBytes => {
  const layers: number[] = new Array(statedLayerCount(gguf)).fill(0)
  const sums = { input: 0, output: 0, other: 0 }
  for (const tensor of gguf.tensors) {
    const layer = layerOf(tensor)
    if (layer === undefined) {
      sums[placeOf(tensor)] += tensor.sizeBytes
      continue
    }
    while (layers.length <= layer) layers.push(0)
    layers[layer]! += tensor.sizeBytes
  }
  const tied = tiedEmbeddings(gguf)
  return {
    layers,
    inputBytes: sums.input,
    outputBytes: sums.output + (tied?.sizeBytes ?? 0),
    otherBytes: sums.other,
    tiedOutput: tied !== undefined,
  }
}

const statedLayerCount = (gguf: GgufFile): number => {
  const architecture = ggufString(gguf, "general.architecture")
  const count = ggufInteger(gguf, `${architecture}.block_count`) ?? 0
  return Math.min(Math.max(count, 0), MAX_LAYERS)
}

const layerOf = (tensor: GgufTensorInfo): number | undefined => {
  const index = BLOCK.exec(tensor.name)?.[1]
  const layer = index === undefined ? undefined : Number(index)
  return layer !== undefined && layer < MAX_LAYERS ? layer : undefined
}

const placeOf = (tensor: GgufTensorInfo): "input" | "output" | "other" => {
  if (INPUT.test(tensor.name)) return "input"
  return OUTPUT.test(tensor.name) ? "output" : "other"
}

/**
 * The embeddings that serve as output matrix too. A model with neither an output matrix nor a norm
 * before it is an encoder, which puts out the last layer's activations.
 */
const tiedEmbeddings = (gguf: GgufFile): GgufTensorInfo | undefined => {
  const has = (name: string) => gguf.tensors.some((tensor) => tensor.name === name)
  const generates = has("output_norm.weight") || has("dec.output_norm.weight") || isLfm2(gguf)
  if (has("output.weight") || !generates) return undefined
  return gguf.tensors.find((tensor) => tensor.name === "token_embd.weight")
}

/** Its older files name the output norm `token_embd_norm` (LLM_TENSOR_OUTPUT_NORM_LFM2). */
const isLfm2 = (gguf: GgufFile): boolean =>
  ggufString(gguf, "general.architecture")?.startsWith("lfm2") ?? false
