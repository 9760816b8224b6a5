/** A loaded model: its facts, its tokenizer, and what can be made of it. */
import type { Pointer } from "bun:ffi"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { Detokenizer } from "./Detokenizer.ts"
import { type Address, asPointer, cString } from "./io.ts"
import { llama } from "./libllama.ts"
import {
  type ContextError,
  type ContextOptions,
  type ModelContext,
  makeModelContext,
} from "./ModelContext.ts"
import { type ModelInfo, modelInfo, modelMetadata } from "./ModelInfo.ts"
import { makeSampler, type Sampler, type SamplerOptions } from "./Sampler.ts"

/** The model cannot turn this text into tokens. */
export class TokenizeError extends Data.TaggedError("TokenizeError")<{
  /** `none`: the model has no tokenizer; `text`: its vocabulary cannot express the text. */
  readonly reason: "none" | "text"
  readonly path: string
  readonly message: string
}> {}

export interface TokenizeOptions {
  /** Adds the tokens that the model wants at the beginning and the end; true. */
  readonly addSpecial?: boolean
  /** Reads the names of special tokens in the text as these tokens; false. */
  readonly parseSpecial?: boolean
}

/** How the model was loaded. */
export interface ModelSource {
  readonly path: string
  readonly noAlloc: boolean
  readonly vocabOnly: boolean
}

/** The methods throw when they are used after the scope closed. */
export class Model {
  readonly address: Address
  readonly path: string
  readonly info: ModelInfo
  readonly noAlloc: boolean
  readonly vocabOnly: boolean
  readonly #library = llama()
  readonly #vocab: Pointer
  readonly #contexts = new Set<ModelContext>()
  #released = false
  #pieceBlock = new Uint8Array(256)

  /** @param address of a llama_model, which this takes over */
  constructor(address: Address, source: ModelSource) {
    this.address = address
    this.path = source.path
    this.noAlloc = source.noAlloc
    this.vocabOnly = source.vocabOnly
    this.info = modelInfo(asPointer(address))
    this.#vocab = this.#library.llama_model_get_vocab(asPointer(address)) as Pointer
  }

  /** The tokens of a text. */
  tokenize(text: string, options: TokenizeOptions = {}): Effect.Effect<Int32Array, TokenizeError> {
    return Effect.suspend(() => {
      this.#open()
      if (!this.info.hasTokenizer) {
        return Effect.fail(
          new TokenizeError({
            reason: "none",
            path: this.path,
            message: `${this.path} has no tokenizer: give it token ids instead of text, or use a model file with one.`,
          }),
        )
      }
      const tokens = this.#tokenize(new TextEncoder().encode(text), options)
      return tokens === undefined
        ? Effect.fail(
            new TokenizeError({
              reason: "text",
              path: this.path,
              message: `The vocabulary of ${this.path} cannot express this text of ${text.length} characters (${String(this.#library.ls_last_error()) || "too many tokens"}): leave out the characters it does not know.`,
            }),
          )
        : Effect.succeed(tokens)
    })
  }

  #tokenize(text: Uint8Array, options: TokenizeOptions): Int32Array | undefined {
    // ptr of an empty array would be null.
    const source = text.length === 0 ? new Uint8Array(1) : text
    const run = (block: Int32Array): number =>
      this.#library.ls_tokenize(
        this.#vocab,
        source,
        text.length,
        block,
        block.length,
        options.addSpecial ?? true,
        options.parseSpecial ?? false,
      )
    let block = new Int32Array(text.length + 8)
    let count = run(block)
    if (count < 0 && count !== overflow) {
      block = new Int32Array(-count)
      count = run(block)
    }
    return count < 0 ? undefined : block.slice(0, count)
  }

  /**
   * The bytes that a token stands for: a copy, often not whole UTF-8 characters (see `detokenizer`).
   * Empty for tokens outside the vocabulary, for models without tokenizer, and for control tokens
   * unless `special`, which gives their names.
   */
  piece(token: number, special = false): Uint8Array {
    this.#open()
    if (!this.info.hasTokenizer || !(token >= 0 && token < this.info.vocabSize)) return noBytes
    let length = this.#writePiece(token, special)
    if (length < 0) {
      this.#pieceBlock = new Uint8Array(-length)
      length = this.#writePiece(token, special)
    }
    return this.#pieceBlock.slice(0, Math.max(0, length))
  }

  #writePiece(token: number, special: boolean): number {
    const block = this.#pieceBlock
    return this.#library.llama_token_to_piece(this.#vocab, token, block, block.length, 0, special)
  }

  /** Turns a stream of tokens into text; `special` shows control tokens by their names. */
  detokenizer(special = false): Detokenizer {
    return new Detokenizer((token) => this.piece(token, special))
  }

  /** Whether a token ends the text. */
  isEndOfGeneration(token: number): boolean {
    this.#open()
    return this.#library.llama_vocab_is_eog(this.#vocab, token)
  }

  /** A scalar of the file's metadata as text; undefined when the key is absent or holds an array. */
  metadata(key: string): string | undefined {
    this.#open()
    return modelMetadata(asPointer(this.address), cString(key))
  }

  /** Makes a context, which ends with the scope, or with the model if that ends first. */
  newContext(options: ContextOptions = {}): Effect.Effect<ModelContext, ContextError, Scope.Scope> {
    return Effect.suspend(() => {
      this.#open()
      if (this.vocabOnly) throw new Error(`${this.path} was loaded with vocabOnly: no context.`)
      return Effect.tap(makeModelContext(this, options), (context) => {
        for (const known of this.#contexts) if (known.isReleased) this.#contexts.delete(known)
        this.#contexts.add(context)
      })
    })
  }

  /** Makes a sampler, which ends with the scope. */
  newSampler(options: SamplerOptions = {}): Effect.Effect<Sampler, never, Scope.Scope> {
    return Effect.suspend(() => {
      this.#open()
      return makeSampler(
        {
          address: this.address,
          vocabSize: this.info.vocabSize,
          metadata: (key) => this.metadata(key),
          isEndOfGeneration: (token) => this.isEndOfGeneration(token),
        },
        options,
      )
    })
  }

  /** Frees the model and its contexts; called by the scope that made it, harmless when called again. */
  release(): void {
    if (this.#released) return
    this.#released = true
    // A context reads its model while it is freed.
    for (const context of this.#contexts) context.release()
    this.#library.llama_model_free(asPointer(this.address))
  }

  #open(): void {
    if (this.#released) throw new Error(`The model ${this.path} was used after its scope closed.`)
  }
}

const noBytes = new Uint8Array(0)

/** INT32_MIN: no count that a larger block could help. */
const overflow = -(2 ** 31)
