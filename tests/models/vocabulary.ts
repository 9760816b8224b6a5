import { join } from "node:path"
import { type GgufValueToWrite, readGguf, readGgufArray } from "@ggml-rpc/gguf"
import { ensureSource } from "@ggml-rpc/native/source"

/** A SentencePiece vocabulary as three columns, by token id; 0, 1, 2 are unknown, begin and end. */
export interface Vocabulary {
  readonly tokens: readonly string[]
  readonly scores: readonly number[]
  readonly types: readonly number[]
}

/** The 32000 tokens of Llama 2, from the pinned llama.cpp source; fetches the source if need be. */
export const llamaVocabulary = async (): Promise<Vocabulary> => {
  const gguf = readGguf(join(await ensureSource(), "models", "ggml-vocab-llama-spm.gguf"))
  const column = <T extends string | number>(name: string, type: "string" | "number") => {
    const values = readGgufArray(gguf, `tokenizer.ggml.${name}`) ?? []
    return values.filter((value): value is T => typeof value === type)
  }
  return {
    tokens: column<string>("tokens", "string"),
    scores: column<number>("scores", "number"),
    types: column<number>("token_type", "number"),
  }
}

/** `llama_token_type` of llama.cpp v0.5.0 include/llama.h. */
const TYPE = { normal: 1, unknown: 2, control: 3, byte: 6 } as const

/** A vocabulary of `size` tokens that needs no source: marks, all bytes, then numbered words. */
export const numberedVocabulary = (size: number): Vocabulary => {
  const marks = ["<unk>", "<s>", "</s>"]
  const bytes = Array.from({ length: 256 }, (_, byte) => {
    return `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`
  })
  const wordCount = size - marks.length - bytes.length
  const words = Array.from({ length: wordCount }, (_, index) => `▁word${index}`)
  const tokens = [...marks, ...bytes, ...words]
  const types = tokens.map((_, id) => {
    if (id >= marks.length + bytes.length) return TYPE.normal
    if (id >= marks.length) return TYPE.byte
    return id === 0 ? TYPE.unknown : TYPE.control
  })
  return { tokens, scores: tokens.map((_, id) => -id), types }
}

/** The metadata that makes `vocabulary` a tokenizer. */
export const vocabularyMetadata = (
  vocabulary: Vocabulary,
): readonly (readonly [key: string, value: GgufValueToWrite])[] => [
  ["tokenizer.ggml.model", { type: "string", value: "llama" }],
  ["tokenizer.ggml.pre", { type: "string", value: "default" }],
  ["tokenizer.ggml.tokens", { type: "array", elementType: "string", values: vocabulary.tokens }],
  ["tokenizer.ggml.scores", { type: "array", elementType: "float32", values: vocabulary.scores }],
  ["tokenizer.ggml.token_type", { type: "array", elementType: "int32", values: vocabulary.types }],
  ["tokenizer.ggml.unknown_token_id", { type: "uint32", value: 0 }],
  ["tokenizer.ggml.bos_token_id", { type: "uint32", value: 1 }],
  ["tokenizer.ggml.eos_token_id", { type: "uint32", value: 2 }],
  ["tokenizer.ggml.add_bos_token", { type: "bool", value: true }],
  ["tokenizer.ggml.add_eos_token", { type: "bool", value: false }],
]
