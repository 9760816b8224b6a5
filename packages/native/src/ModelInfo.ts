import type { Pointer } from "bun:ffi"
import { llama } from "./libllama.ts"

/** What a loaded model is; with `vocabOnly` only the fields about the vocabulary mean something. */
export interface ModelInfo {
  /** Such as `llama 8B Q4_K - Medium`. */
  readonly description: string
  /** `general.architecture`. */
  readonly architecture: string
  /** Layers that generate; `nextnLayerCount` more may lie behind them in the file. */
  readonly layerCount: number
  readonly nextnLayerCount: number
  readonly trainContextSize: number
  /** Width of a layer. */
  readonly embeddingSize: number
  /** Width of the embeddings that come out. */
  readonly outputEmbeddingSize: number
  /** Classes of a classifier, as ranked by `sequenceEmbeddings` with rank pooling. */
  readonly classCount: number
  readonly vocabSize: number
  /** Whether text can be turned into tokens; a model without tokenizer still takes token ids. */
  readonly hasTokenizer: boolean
  readonly hasEncoder: boolean
  readonly hasDecoder: boolean
  readonly isRecurrent: boolean
  readonly isHybrid: boolean
  readonly isDiffusion: boolean
  /** Tokens that layers with sliding-window attention look back; 0: there are none. */
  readonly slidingWindow: number
  /** Bytes of all tensors. */
  readonly sizeBytes: number
  readonly parameterCount: number
  /** -1: the model has none. */
  readonly beginToken: number
  /** -1: the model has none. */
  readonly endToken: number
  /** Whether `tokenize` starts a text with `beginToken`. */
  readonly addsBeginToken: boolean
  /** First token of the decoder of an encoder-decoder model; -1: `beginToken`. */
  readonly decoderStartToken: number
  /** Text of `beginToken`; empty: the model has none. */
  readonly beginText: string
  /** Text of `endToken`; empty: the model has none. */
  readonly endText: string
  /** Jinja source that turns a chat's messages into a prompt; undefined: the file has none. */
  readonly chatTemplate: string | undefined
  /** The same for chats with tools, where the file has another for them. */
  readonly toolUseChatTemplate: string | undefined
}

/** Text that a llama function writes into a block like snprintf, however long it is. */
const readText = (read: (block: Uint8Array, size: number) => number): string | undefined => {
  let block = new Uint8Array(256)
  let length = read(block, block.length)
  if (length >= block.length) {
    block = new Uint8Array(length + 1)
    length = read(block, block.length)
  }
  return length < 0 ? undefined : new TextDecoder().decode(block.subarray(0, length))
}

/** Text of a token, control tokens by their names; empty for -1. */
const tokenText = (vocab: Pointer, vocabSize: number, token: number): string =>
  token < 0 || token >= vocabSize
    ? ""
    : (readText((block, size) => {
        const length = llama().llama_token_to_piece(vocab, token, block, size, 0, true)
        // Where snprintf tells the length that it needs, this tells it as a negative number.
        return Math.abs(length)
      }) ?? "")

/** A scalar of the model's metadata as text; undefined when the key is absent or holds an array. */
export const modelMetadata = (model: Pointer, key: Uint8Array): string | undefined =>
  readText((block, size) => llama().llama_model_meta_val_str(model, key, block, size))

export const modelInfo = (model: Pointer): ModelInfo => {
  const library = llama()
  const vocab = library.llama_model_get_vocab(model) as Pointer
  const vocabSize = library.llama_vocab_n_tokens(vocab)
  const layerCount = library.llama_model_n_layer(model)
  const metadata = (key: string): string | undefined =>
    modelMetadata(model, new TextEncoder().encode(`${key}\0`))
  const [beginToken, endToken] = [library.llama_vocab_bos(vocab), library.llama_vocab_eos(vocab)]
  return {
    description:
      readText((block, size) => library.llama_model_desc(model, block, size))?.trim() ?? "",
    architecture: metadata("general.architecture") ?? "",
    layerCount,
    nextnLayerCount: library.llama_model_n_layer_nextn(model),
    trainContextSize: library.llama_model_n_ctx_train(model),
    embeddingSize: library.llama_model_n_embd(model),
    outputEmbeddingSize: library.llama_model_n_embd_out(model),
    classCount: library.llama_model_n_cls_out(model),
    vocabSize,
    hasTokenizer: library.llama_vocab_type(vocab) !== 0,
    hasEncoder: library.llama_model_has_encoder(model),
    hasDecoder: library.llama_model_has_decoder(model),
    isRecurrent: library.llama_model_is_recurrent(model),
    isHybrid: library.llama_model_is_hybrid(model),
    isDiffusion: library.llama_model_is_diffusion(model),
    slidingWindow: library.llama_model_n_swa(model),
    sizeBytes: library.ls_model_size(model),
    parameterCount: library.ls_model_parameter_count(model),
    beginToken,
    endToken,
    addsBeginToken: library.llama_vocab_get_add_bos(vocab),
    decoderStartToken: library.llama_model_decoder_start_token(model),
    beginText: tokenText(vocab, vocabSize, beginToken),
    endText: tokenText(vocab, vocabSize, endToken),
    chatTemplate: metadata("tokenizer.chat_template"),
    toolUseChatTemplate: metadata("tokenizer.chat_template.tool_use"),
  }
}
