import {
  computedTensor,
  constantTensor,
  type GgufTensorToWrite,
  type GgufToWrite,
  type GgufValueToWrite,
  SeededRandom,
  seedFor,
  writeGguf,
} from "@ggml-rpc/gguf"
import { recitalText, recitalTokens } from "./recital.ts"
import { makeVocabulary, type Vocabulary } from "./vocabulary.ts"

const SEED = 7
const LAYERS = 8
/** One coordinate per recital token, one for "not begun", the rest to spare. */
const DIM = 192
const HEAD_DIM = 64
const HEADS = DIM / HEAD_DIM
const KV_HEADS = 1
const FFN_DIM = 96
const CONTEXT = 4096
const NORM_EPSILON = 1e-5

/** Length of an embedding: the norm's output has the same, so layers see the embedding unscaled. */
const EMBEDDING = Math.sqrt(DIM)
/** Logit of the recital's next token. Layers and noise move logits by about 1. */
const NEXT_LOGIT = 24
/** Logit of the first token at the end, below the end mark's: with the mark banned, it begins anew. */
const AGAIN_LOGIT = 15

/**
 * Deviations of the random parts. `out` and `down` set how much a layer adds to each coordinate:
 * about 0.1 of a 13.9 long embedding, which is 0.2 in a logit. Query and key are large enough that
 * attention picks a few positions instead of averaging over all.
 */
const NOISE = {
  embedding: 0.1,
  output: 0.02,
  queryKey: 1.5 / Math.sqrt(DIM),
  value: 1 / Math.sqrt(DIM),
  out: 0.013,
  gateUp: 1 / Math.sqrt(DIM),
  down: 0.016,
}

/**
 * A llama-architecture model whose weights are constructed, not trained: greedy decoding recites
 * `text` after any prompt, then ends.
 *
 * Each recital token's embedding points along a coordinate of its own; every other token's along one
 * more. The output matrix gives the token that follows a large weight on that coordinate. The layers
 * add small random amounts, so that every logit depends on every weight while the winner does not.
 */
export const demoModel = (text: string = recitalText): GgufToWrite => {
  const recital = recitalTokens(text)
  if (recital.length === 0 || recital.length >= DIM) {
    throw new RangeError(`the recital has ${recital.length} tokens; 1 to at most ${DIM - 1} fit`)
  }
  const vocabulary = makeVocabulary(recital)
  return {
    metadata: metadataOf(vocabulary, text),
    tensors: [
      embeddings(vocabulary),
      ...Array.from({ length: LAYERS }, (_, layer) => layerTensors(layer)).flat(),
      constantTensor("output_norm.weight", "F32", [DIM], 1),
      outputMatrix(vocabulary),
    ],
  }
}

/** Writes the demo model, under 3 MB, to `path`. Always the same bytes. Throws `GgufError`. */
export const writeDemoModel = (path: string): void => writeGguf(path, demoModel())

const embeddings = (vocabulary: Vocabulary): GgufTensorToWrite => {
  const begin = beginCoordinate(vocabulary)
  const compute = noiseRows("token_embd.weight", NOISE.embedding, (row, token) => {
    row[token < vocabulary.recital ? begin : token - vocabulary.recital]! += EMBEDDING
  })
  const ne = [DIM, vocabulary.tokens.length]
  return computedTensor("token_embd.weight", "F16", ne, compute)
}

const outputMatrix = (vocabulary: Vocabulary): GgufTensorToWrite => {
  const last = vocabulary.tokens.length - vocabulary.recital - 1
  const compute = noiseRows("output.weight", NOISE.output, (row, token) => {
    const place = token - vocabulary.recital
    if (place > 0) row[place - 1]! += NEXT_LOGIT / EMBEDDING
    if (place === 0) {
      row[beginCoordinate(vocabulary)]! += NEXT_LOGIT / EMBEDDING
      row[last]! += AGAIN_LOGIT / EMBEDDING
    }
    if (token === vocabulary.end) row[last]! += NEXT_LOGIT / EMBEDDING
  })
  return computedTensor("output.weight", "F16", [DIM, vocabulary.tokens.length], compute)
}

/** The coordinate of all tokens that are not in the recital. */
const beginCoordinate = (vocabulary: Vocabulary): number =>
  vocabulary.tokens.length - vocabulary.recital

const layerTensors = (layer: number): readonly GgufTensorToWrite[] => {
  const matrix = (name: string, rowLength: number, rows: number, sigma: number) => {
    const full = `blk.${layer}.${name}.weight`
    return computedTensor(full, "F16", [rowLength, rows], noiseRows(full, sigma))
  }
  const norm = (name: string) => constantTensor(`blk.${layer}.${name}.weight`, "F32", [DIM], 1)
  return [
    norm("attn_norm"),
    matrix("attn_q", DIM, HEADS * HEAD_DIM, NOISE.queryKey),
    matrix("attn_k", DIM, KV_HEADS * HEAD_DIM, NOISE.queryKey),
    matrix("attn_v", DIM, KV_HEADS * HEAD_DIM, NOISE.value),
    matrix("attn_output", HEADS * HEAD_DIM, DIM, NOISE.out),
    norm("ffn_norm"),
    matrix("ffn_gate", DIM, FFN_DIM, NOISE.gateUp),
    matrix("ffn_up", DIM, FFN_DIM, NOISE.gateUp),
    matrix("ffn_down", FFN_DIM, DIM, NOISE.down),
  ]
}

/** Rows of normal noise, to which `add` may add. */
const noiseRows = (
  name: string,
  sigma: number,
  add: (row: Float32Array, index: number) => void = () => undefined,
): ((row: Float32Array, index: number) => void) => {
  const seed = seedFor(SEED, name)
  return (row, index) => {
    const random = new SeededRandom(seed + index)
    for (let i = 0; i < row.length; i++) row[i] = sigma * random.normal()
    add(row, index)
  }
}

const string = (value: string): GgufValueToWrite => ({ type: "string", value })
const uint32 = (value: number): GgufValueToWrite => ({ type: "uint32", value })
const bool = (value: boolean): GgufValueToWrite => ({ type: "bool", value })

const metadataOf = (vocabulary: Vocabulary, text: string): GgufToWrite["metadata"] => [
  ["general.architecture", string("llama")],
  ["general.name", string("ggml-rpc demo")],
  [
    "general.description",
    string(
      "Constructed, not trained: a program wrote these weights so that greedy decoding recites " +
        `one text (${text.split(/\s+/).length} words) after any prompt. It knows nothing else.`,
    ),
  ],
  ["general.license", string("mit")],
  // LLAMA_FTYPE_MOSTLY_F16
  ["general.file_type", uint32(1)],
  ["llama.context_length", uint32(CONTEXT)],
  ["llama.embedding_length", uint32(DIM)],
  ["llama.block_count", uint32(LAYERS)],
  ["llama.feed_forward_length", uint32(FFN_DIM)],
  ["llama.attention.head_count", uint32(HEADS)],
  ["llama.attention.head_count_kv", uint32(KV_HEADS)],
  ["llama.attention.layer_norm_rms_epsilon", { type: "float32", value: NORM_EPSILON }],
  ["llama.rope.dimension_count", uint32(HEAD_DIM)],
  ["llama.vocab_size", uint32(vocabulary.tokens.length)],
  ["tokenizer.ggml.model", string("llama")],
  ["tokenizer.ggml.pre", string("default")],
  ["tokenizer.ggml.tokens", column("string", vocabulary, (token) => token.text)],
  ["tokenizer.ggml.scores", column("float32", vocabulary, (token) => token.score)],
  ["tokenizer.ggml.token_type", column("int32", vocabulary, (token) => token.type)],
  ["tokenizer.ggml.unknown_token_id", uint32(vocabulary.unknown)],
  ["tokenizer.ggml.bos_token_id", uint32(vocabulary.begin)],
  ["tokenizer.ggml.eos_token_id", uint32(vocabulary.end)],
  ["tokenizer.ggml.add_bos_token", bool(true)],
  ["tokenizer.ggml.add_eos_token", bool(false)],
]

const column = (
  elementType: "string" | "float32" | "int32",
  vocabulary: Vocabulary,
  pick: (token: Vocabulary["tokens"][number]) => string | number,
): GgufValueToWrite => ({ type: "array", elementType, values: vocabulary.tokens.map(pick) })
