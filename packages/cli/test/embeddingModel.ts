import {
  constantTensor,
  type GgufTensorToWrite,
  type GgufValueToWrite,
  randomTensor,
  writeGguf,
} from "@ggml-rpc/client"

const DIM = 64
const FFN_DIM = 128
const LAYERS = 3
const VOCAB = 128
const CONTEXT = 256
const SEED = 5

/**
 * Writes a model of random weights that gives an embedding for each token and no logits, and that has
 * no tokenizer: llama.cpp's `bert` architecture (v0.5.0, src/models/bert.cpp).
 */
export const writeEmbeddingModel = (path: string): void => {
  const uint32 = (value: number): GgufValueToWrite => ({ type: "uint32", value })
  writeGguf(path, {
    metadata: [
      ["general.architecture", { type: "string", value: "bert" }],
      ["bert.context_length", uint32(CONTEXT)],
      ["bert.embedding_length", uint32(DIM)],
      ["bert.feed_forward_length", uint32(FFN_DIM)],
      ["bert.block_count", uint32(LAYERS)],
      ["bert.attention.head_count", uint32(2)],
      ["bert.attention.layer_norm_epsilon", { type: "float32", value: 1e-5 }],
      ["bert.attention.causal", { type: "bool", value: false }],
      ["bert.vocab_size", uint32(VOCAB)],
      ["tokenizer.ggml.model", { type: "string", value: "no_vocab" }],
      ["tokenizer.ggml.token_type_count", uint32(2)],
    ],
    tensors: [
      matrix("token_embd", DIM, VOCAB),
      matrix("token_types", DIM, 2),
      matrix("position_embd", DIM, CONTEXT),
      ...norm("token_embd_norm"),
      ...Array.from({ length: LAYERS }, (_, layer) => layerTensors(`blk.${layer}`)).flat(),
    ],
  })
}

const layerTensors = (layer: string): ReadonlyArray<GgufTensorToWrite> => [
  ...["attn_q", "attn_k", "attn_v", "attn_output"].map((name) =>
    matrix(`${layer}.${name}`, DIM, DIM),
  ),
  ...norm(`${layer}.attn_output_norm`),
  matrix(`${layer}.ffn_up`, DIM, FFN_DIM),
  matrix(`${layer}.ffn_down`, FFN_DIM, DIM),
  ...norm(`${layer}.layer_output_norm`),
]

const matrix = (name: string, rowLength: number, rows: number): GgufTensorToWrite =>
  randomTensor(`${name}.weight`, "F32", [rowLength, rows], SEED)

const norm = (name: string): ReadonlyArray<GgufTensorToWrite> => [
  constantTensor(`${name}.weight`, "F32", [DIM], 1),
  constantTensor(`${name}.bias`, "F32", [DIM], 0),
]
