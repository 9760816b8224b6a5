/**
 * Tiny models with an encoder or made for embeddings, random weights: BERT and its like put out
 * embeddings and no logits; T5's decoder attends to what its encoder made. Written to a folder of the
 * caller's.
 */
import { join } from "node:path"
import { constantTensor, type GgufTensorToWrite, type GgufToWrite, writeGguf } from "@ggml-rpc/gguf"
import { randomTensor } from "./random.ts"
import { numberedVocabulary, vocabularyMetadata } from "./vocabulary.ts"

const SEED = 43
const LAYER_COUNT = 4
const DIM = 64
const FFN_DIM = 128
const HEAD_COUNT = 4
const VOCABULARY_SIZE = 320
const CONTEXT_LENGTH = 128
const RELATIVE_BUCKETS = 32

const matrix = (name: string, rowLength: number, rows: number): GgufTensorToWrite =>
  randomTensor(`${name}.weight`, "F32", [rowLength, rows], SEED)
const norm = (name: string): GgufTensorToWrite => constantTensor(`${name}.weight`, "F32", [DIM], 1)
const bias = (name: string, size: number): GgufTensorToWrite =>
  randomTensor(`${name}.bias`, "F32", [size], SEED, 0.1)
const uint32 = (value: number) => ({ type: "uint32", value }) as const
const float32 = (value: number) => ({ type: "float32", value }) as const

const commonMetadata = (architecture: string): GgufToWrite["metadata"] => [
  ["general.architecture", { type: "string", value: architecture }],
  ["general.name", { type: "string", value: `ggml-rpc test model ${architecture}` }],
  [`${architecture}.context_length`, uint32(CONTEXT_LENGTH)],
  [`${architecture}.embedding_length`, uint32(DIM)],
  [`${architecture}.block_count`, uint32(LAYER_COUNT)],
  [`${architecture}.feed_forward_length`, uint32(FFN_DIM)],
  [`${architecture}.attention.head_count`, uint32(HEAD_COUNT)],
]

const layers = (
  tensorsOf: (block: string) => ReadonlyArray<GgufTensorToWrite>,
  prefix = "",
): ReadonlyArray<GgufTensorToWrite> =>
  Array.from({ length: LAYER_COUNT }, (_, layer) => tensorsOf(`${prefix}blk.${layer}`)).flat()

const bertModel = (): GgufToWrite => ({
  metadata: [
    ...commonMetadata("bert"),
    ["bert.attention.layer_norm_epsilon", float32(1e-12)],
    ["bert.attention.causal", { type: "bool", value: false }],
    ["bert.pooling_type", uint32(1)],
    ["tokenizer.ggml.token_type_count", uint32(2)],
    ...vocabularyMetadata(numberedVocabulary(VOCABULARY_SIZE)),
  ],
  tensors: [
    randomTensor("token_embd.weight", "F32", [DIM, VOCABULARY_SIZE], SEED, 1),
    randomTensor("token_types.weight", "F32", [DIM, 2], SEED, 0.1),
    randomTensor("position_embd.weight", "F32", [DIM, CONTEXT_LENGTH], SEED, 0.1),
    norm("token_embd_norm"),
    bias("token_embd_norm", DIM),
    ...layers((block) => [
      ...["attn_q", "attn_k", "attn_v", "attn_output"].flatMap((name) => [
        matrix(`${block}.${name}`, DIM, DIM),
        bias(`${block}.${name}`, DIM),
      ]),
      norm(`${block}.attn_output_norm`),
      bias(`${block}.attn_output_norm`, DIM),
      matrix(`${block}.ffn_up`, DIM, FFN_DIM),
      bias(`${block}.ffn_up`, FFN_DIM),
      matrix(`${block}.ffn_down`, FFN_DIM, DIM),
      bias(`${block}.ffn_down`, DIM),
      norm(`${block}.layer_output_norm`),
      bias(`${block}.layer_output_norm`, DIM),
    ]),
  ],
})

const attention = (stem: string): ReadonlyArray<GgufTensorToWrite> => [
  norm(`${stem}_norm`),
  ...["q", "k", "v", "o"].map((part) => matrix(`${stem}_${part}`, DIM, DIM)),
]

const feedForward = (block: string): ReadonlyArray<GgufTensorToWrite> => [
  norm(`${block}.ffn_norm`),
  matrix(`${block}.ffn_gate`, DIM, FFN_DIM),
  matrix(`${block}.ffn_up`, DIM, FFN_DIM),
  matrix(`${block}.ffn_down`, FFN_DIM, DIM),
]

const relativeBias = (side: "enc" | "dec"): GgufTensorToWrite =>
  randomTensor(`${side}.blk.0.attn_rel_b.weight`, "F32", [HEAD_COUNT, RELATIVE_BUCKETS], SEED)

const t5Model = (): GgufToWrite => ({
  metadata: [
    ...commonMetadata("t5"),
    ["t5.attention.layer_norm_rms_epsilon", float32(1e-6)],
    ["t5.attention.relative_buckets_count", uint32(RELATIVE_BUCKETS)],
    ["t5.decoder_start_token_id", uint32(0)],
    ...vocabularyMetadata(numberedVocabulary(VOCABULARY_SIZE)),
  ],
  tensors: [
    randomTensor("token_embd.weight", "F32", [DIM, VOCABULARY_SIZE], SEED, 1),
    relativeBias("enc"),
    ...layers((block) => [...attention(`${block}.attn`), ...feedForward(block)], "enc."),
    norm("enc.output_norm"),
    relativeBias("dec"),
    ...layers(
      (block) => [
        ...attention(`${block}.attn`),
        ...attention(`${block}.cross_attn`),
        ...feedForward(block),
      ],
      "dec.",
    ),
    norm("dec.output_norm"),
    matrix("output", DIM, VOCABULARY_SIZE),
  ],
})

/** The encoder of T5 alone. Its output matrix is in the file, and never used. */
const t5EncoderModel = (): GgufToWrite => ({
  metadata: [
    ...commonMetadata("t5encoder"),
    ["t5encoder.attention.layer_norm_rms_epsilon", float32(1e-6)],
    ["t5encoder.attention.relative_buckets_count", uint32(RELATIVE_BUCKETS)],
    ...vocabularyMetadata(numberedVocabulary(VOCABULARY_SIZE)),
  ],
  tensors: [
    randomTensor("token_embd.weight", "F32", [DIM, VOCABULARY_SIZE], SEED, 1),
    relativeBias("enc"),
    ...layers((block) => [...attention(`${block}.attn`), ...feedForward(block)], "enc."),
    norm("enc.output_norm"),
    matrix("output", DIM, VOCABULARY_SIZE),
  ],
})

const llamaBlock = (block: string): ReadonlyArray<GgufTensorToWrite> => [
  norm(`${block}.attn_norm`),
  ...["q", "k", "v", "output"].map((part) => matrix(`${block}.attn_${part}`, DIM, DIM)),
  ...feedForward(block),
]

/** A decoder turned into an embedding model: no cache in its graph, and no logits. */
const llamaEmbedModel = (): GgufToWrite => ({
  metadata: [
    ...commonMetadata("llama-embed"),
    ["llama-embed.attention.layer_norm_rms_epsilon", float32(1e-5)],
    ["llama-embed.attention.causal", { type: "bool", value: false }],
    ["llama-embed.rope.dimension_count", uint32(DIM / HEAD_COUNT)],
    ...vocabularyMetadata(numberedVocabulary(VOCABULARY_SIZE)),
  ],
  tensors: [
    randomTensor("token_embd.weight", "F32", [DIM, VOCABULARY_SIZE], SEED, 1),
    ...layers(llamaBlock),
    norm("output_norm"),
    matrix("output", DIM, VOCABULARY_SIZE),
  ],
})

/** EmbeddingGemma: attention to both sides, in most layers to near tokens only. */
const gemmaEmbeddingModel = (): GgufToWrite => {
  const headDim = DIM / HEAD_COUNT
  const headNorm = (name: string) => constantTensor(`${name}.weight`, "F32", [headDim], 1)
  return {
    metadata: [
      ...commonMetadata("gemma-embedding"),
      ["gemma-embedding.attention.layer_norm_rms_epsilon", float32(1e-6)],
      ["gemma-embedding.attention.sliding_window", uint32(4)],
      [
        "gemma-embedding.attention.sliding_window_pattern",
        // Without a full layer, libllama asserts over the mask that none uses.
        {
          type: "array",
          elementType: "bool",
          values: Array.from({ length: LAYER_COUNT }, (_, layer) => layer % 2 === 0),
        },
      ],
      ["gemma-embedding.attention.key_length", uint32(headDim)],
      ["gemma-embedding.attention.value_length", uint32(headDim)],
      ["gemma-embedding.pooling_type", uint32(1)],
      ...vocabularyMetadata(numberedVocabulary(VOCABULARY_SIZE)),
    ],
    tensors: [
      randomTensor("token_embd.weight", "F32", [DIM, VOCABULARY_SIZE], SEED, 1),
      ...layers((block) => [
        ...llamaBlock(block),
        headNorm(`${block}.attn_q_norm`),
        headNorm(`${block}.attn_k_norm`),
        norm(`${block}.post_attention_norm`),
        norm(`${block}.post_ffw_norm`),
      ]),
      norm("output_norm"),
    ],
  }
}

/** No encoder, but a table of positions as BERT has: a text cannot be longer than that. */
const gpt2Model = (): GgufToWrite => {
  const withBias = (name: string, rowLength: number, rows: number) => [
    matrix(name, rowLength, rows),
    bias(name, rows),
  ]
  const centred = (name: string) => [norm(name), bias(name, DIM)]
  return {
    metadata: [
      ...commonMetadata("gpt2"),
      ["gpt2.attention.layer_norm_epsilon", float32(1e-5)],
      ...vocabularyMetadata(numberedVocabulary(VOCABULARY_SIZE)),
    ],
    tensors: [
      randomTensor("token_embd.weight", "F32", [DIM, VOCABULARY_SIZE], SEED, 1),
      randomTensor("position_embd.weight", "F32", [DIM, CONTEXT_LENGTH], SEED, 0.1),
      ...layers((block) => [
        ...centred(`${block}.attn_norm`),
        ...withBias(`${block}.attn_qkv`, DIM, 3 * DIM),
        ...withBias(`${block}.attn_output`, DIM, DIM),
        ...centred(`${block}.ffn_norm`),
        ...withBias(`${block}.ffn_up`, DIM, FFN_DIM),
        ...withBias(`${block}.ffn_down`, FFN_DIM, DIM),
      ]),
      ...centred("output_norm"),
      matrix("output", DIM, VOCABULARY_SIZE),
    ],
  }
}

/** A score of a text, from its first token. */
const rankModel = (): GgufToWrite => {
  const { metadata, tensors } = bertModel()
  return {
    metadata: [
      ...metadata.filter(([key]) => key !== "bert.pooling_type"),
      ["bert.pooling_type", uint32(4)],
    ],
    tensors: [
      ...tensors,
      matrix("cls", DIM, DIM),
      bias("cls", DIM),
      matrix("cls.output", DIM, 1),
      bias("cls.output", 1),
    ],
  }
}

const encoderModels = {
  gpt2: gpt2Model,
  bert: bertModel,
  rank: rankModel,
  t5: t5Model,
  t5encoder: t5EncoderModel,
  "llama-embed": llamaEmbedModel,
  "gemma-embedding": gemmaEmbeddingModel,
} satisfies Record<string, () => GgufToWrite>

export type EncoderModelName = keyof typeof encoderModels

/** Writes the models into `folder`, 2 MB together, and returns their paths. */
export const writeEncoderModels = (folder: string): Readonly<Record<EncoderModelName, string>> => {
  const pathOf = (name: string): string => join(folder, `${name}.gguf`)
  for (const [name, make] of Object.entries(encoderModels)) writeGguf(pathOf(name), make())
  return {
    gpt2: pathOf("gpt2"),
    bert: pathOf("bert"),
    rank: pathOf("rank"),
    t5: pathOf("t5"),
    t5encoder: pathOf("t5encoder"),
    "llama-embed": pathOf("llama-embed"),
    "gemma-embedding": pathOf("gemma-embedding"),
  }
}
