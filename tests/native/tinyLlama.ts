/**
 * Llama models of a megabyte whose logits can be computed by hand: for testing the bindings, not
 * the arithmetic of ggml.
 */
import {
  computedTensor,
  constantTensor,
  type GgufTensorToWrite,
  type GgufValueToWrite,
  writeGguf,
} from "@ggml-rpc/gguf"
import { randomTensor } from "../models/random.ts"
import { numberedVocabulary, type Vocabulary, vocabularyMetadata } from "../models/vocabulary.ts"

type Metadata = ReadonlyArray<readonly [key: string, value: GgufValueToWrite]>

/** Width of the model; one dimension a token, so that an embedding can name its token. */
export const dim = 320
export const vocabSize = dim
export const trainContextSize = 512
export const layerCount = 2
/** One key and value head. */
export const headDim = 32

export const epsilon = 1e-5

export interface TinyLlama {
  /** Without it the model has no tokenizer. */
  readonly vocabulary?: Vocabulary
  /** 0 makes the layers do nothing: the logits then follow from the last token alone. */
  readonly layerSigma?: number
  /** Logit weight of `to` after `from`; 0 where not given. */
  readonly outputWeight: (from: number, to: number) => number
  readonly metadata?: Metadata
}

/** Every token is followed by the next one. */
export const countingWeight = (from: number, to: number): number => (to === from + 1 ? 1 : 0)

/** Words that a SentencePiece tokenizer can find: every word is two shorter ones, down to characters. */
const words = ["▁", "a", "b", "▁a", "▁ab"]
const numbered = numberedVocabulary(vocabSize)
const firstWord = 3 + 256

/** Marks, bytes, `words` from id 259, and words that are never found. */
export const countingVocabulary: Vocabulary = {
  ...numbered,
  tokens: numbered.tokens.map((name, id) => words[id - firstWord] ?? name),
}

export const tokenOf = (word: string): number => countingVocabulary.tokens.indexOf(word)

const matrix = (name: string, ne: readonly [number, number], sigma: number): GgufTensorToWrite =>
  sigma === 0 ? constantTensor(name, "F32", ne, 0) : randomTensor(name, "F32", ne, 7, sigma)

const layer = (index: number, sigma: number): ReadonlyArray<GgufTensorToWrite> => {
  const name = (part: string) => `blk.${index}.${part}.weight`
  return [
    constantTensor(name("attn_norm"), "F32", [dim], 1),
    matrix(name("attn_q"), [dim, headDim], sigma),
    matrix(name("attn_k"), [dim, headDim], sigma),
    matrix(name("attn_v"), [dim, headDim], sigma),
    matrix(name("attn_output"), [headDim, dim], sigma),
    constantTensor(name("ffn_norm"), "F32", [dim], 1),
    matrix(name("ffn_gate"), [dim, headDim], sigma),
    matrix(name("ffn_up"), [dim, headDim], sigma),
    matrix(name("ffn_down"), [headDim, dim], sigma),
  ]
}

const oneHot = (row: Float32Array, index: number): void => {
  row[index] = 1
}

const number = (value: number): GgufValueToWrite => ({ type: "uint32", value })

const architecture: Metadata = [
  ["general.architecture", { type: "string", value: "llama" }],
  ["general.name", { type: "string", value: "tiny" }],
  ["llama.block_count", number(layerCount)],
  ["llama.context_length", number(trainContextSize)],
  ["llama.embedding_length", number(dim)],
  ["llama.feed_forward_length", number(headDim)],
  ["llama.attention.head_count", number(1)],
  ["llama.attention.head_count_kv", number(1)],
  ["llama.attention.key_length", number(headDim)],
  ["llama.attention.value_length", number(headDim)],
  ["llama.rope.dimension_count", number(headDim)],
  ["llama.vocab_size", number(vocabSize)],
  ["llama.attention.layer_norm_rms_epsilon", { type: "float32", value: epsilon }],
]

const noTokenizer: Metadata = [["tokenizer.ggml.model", { type: "string", value: "no_vocab" }]]

export const writeTinyLlama = (path: string, model: TinyLlama): void =>
  writeGguf(path, {
    metadata: [
      ...architecture,
      ...(model.vocabulary === undefined ? noTokenizer : vocabularyMetadata(model.vocabulary)),
      ...(model.metadata ?? []),
    ],
    tensors: [
      computedTensor("token_embd.weight", "F32", [dim, vocabSize], oneHot),
      constantTensor("output_norm.weight", "F32", [dim], 1),
      computedTensor("output.weight", "F32", [dim, vocabSize], (row, to) => {
        for (let from = 0; from < dim; from++) row[from] = model.outputWeight(from, to)
      }),
      ...Array.from({ length: layerCount }, (_, index) =>
        layer(index, model.layerSigma ?? 0),
      ).flat(),
    ],
  })

/** What the norm makes of the one-hot embedding of a token, where the layers do nothing. */
export const embeddingScale = 1 / Math.sqrt(1 / dim + epsilon)

/** Logits after a token, where the layers do nothing. */
export const expectedLogits = (model: TinyLlama, token: number): ReadonlyArray<number> =>
  Array.from({ length: vocabSize }, (_, to) => embeddingScale * model.outputWeight(token, to))
