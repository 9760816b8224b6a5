/**
 * A loaded model: its facts, its tokenizer, and what can be made of it. Synchronous, without Effect: what
 * can fail throws, and whoever opens it releases it. `Llama.ts` gives the scoped face of this.
 */
import { type Pointer, ptr } from "bun:ffi"
import { existsSync } from "node:fs"
import { Detokenizer } from "./Detokenizer.ts"
import { logTail, saysOutOfMemory, takeFailureLog } from "./failureLog.ts"
import { type Address, asPointer, cString, io } from "./io.ts"
import { takeLog } from "./libggml.ts"
import { llama } from "./libllama.ts"
import { type ContextOptions, type ModelContext, openModelContext } from "./ModelContext.ts"
import { type ModelInfo, modelInfo, modelMetadata } from "./ModelInfo.ts"
import { llamaVersion } from "./prebuilt.ts"
import { openSampler, type Sampler, type SamplerOptions } from "./Sampler.ts"
import { TaggedError } from "./taggedError.ts"

export interface ModelOptions {
  /** Devices to put layers on, in the order of the split; none, the default, computes on the CPU. */
  readonly devices?: ReadonlyArray<Address>
  /** Share of the layers that each device gets, one number a device; by free memory if not given. */
  readonly tensorSplit?: ReadonlyArray<number>
  /**
   * `layer`, the default: each device gets whole layers. `tensor`: each gets a part of every tensor, by `tensorSplit`, the same to
   * all if not given, and they compute at once; not for all architectures, and contexts have to use flash attention.
   */
  readonly splitMode?: "layer" | "tensor"
  /** Layers on the devices, counted from the last; -1, the default, is all. */
  readonly gpuLayers?: number
  /** Maps the file instead of reading it; true. */
  readonly mmap?: boolean
  /** Keeps the weights of this machine's CPU from being swapped out, as far as the system lets it; false. */
  readonly mlock?: boolean
  /** Where tensors go whose names these find, the first that does: instead of where their layer goes. */
  readonly overrides?: ReadonlyArray<TensorOverride>
  /** LoRA adapters that its contexts compute with. Without memory for weights there are none. */
  readonly adapters?: ReadonlyArray<AdapterOptions>
  /** Loads only metadata, to measure what a context would take. */
  readonly noAlloc?: boolean
  /** Loads only the tokenizer. */
  readonly vocabOnly?: boolean
  /** Looks for values in the weights that are not numbers. */
  readonly checkTensors?: boolean
  /** Lets the CPU repack weights into layouts that it computes faster; true. */
  readonly extraBufferTypes?: boolean
  /** `io_abort_flag()`: lets it stop the loading. */
  readonly abortFlag?: Address
}

export interface TensorOverride {
  /** A regular expression of ECMAScript's, as libllama reads them. */
  readonly pattern: string
  /** One of `devices`; null: the CPU. */
  readonly device: Address | null
}

export interface AdapterOptions {
  readonly path: string
  /** How much of it; 1 is as it was trained. */
  readonly scale: number
}

/** A model file that did not load. */
export class ModelLoadError extends TaggedError("ModelLoadError")<{
  /**
   * `file`: there is none; `options`: they cannot be met; `memory`: a device could not hold its part;
   * `aborted`: the abort flag was raised; `adapter`: a LoRA adapter is not one for it; `model`: llama.cpp refused it.
   */
  readonly reason: "file" | "options" | "memory" | "aborted" | "adapter" | "model"
  readonly path: string
  readonly message: string
  /** What ggml and llama logged about it. */
  readonly log: string
}> {}

/** The model cannot turn this text into tokens. */
export class TokenizeError extends TaggedError("TokenizeError")<{
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
  /** Devices that each tensor is cut over; none where it is not. */
  readonly cutOver: ReadonlyArray<Address>
}

/** The methods throw when they are used after `release`. */
export class LlamaModel {
  readonly address: Address
  readonly path: string
  readonly info: ModelInfo
  readonly noAlloc: boolean
  readonly vocabOnly: boolean
  /** Devices that each tensor is cut over; none where layers are split. */
  readonly cutOver: ReadonlyArray<Address>
  readonly #library = llama()
  readonly #vocab: Pointer
  readonly #contexts = new Set<ModelContext>()
  readonly #adapters: Array<{ readonly address: Address; readonly scale: number }> = []
  #released = false
  #pieceBlock = new Uint8Array(256)

  /** @param address of a llama_model, which this takes over */
  constructor(address: Address, source: ModelSource) {
    this.address = address
    this.path = source.path
    this.noAlloc = source.noAlloc
    this.vocabOnly = source.vocabOnly
    this.cutOver = source.cutOver
    this.info = modelInfo(asPointer(address))
    this.#vocab = this.#library.llama_model_get_vocab(asPointer(address)) as Pointer
  }

  /**
   * Loads a GGUF file, blocking.
   *
   * @throws {ModelLoadError}
   */
  static open<T extends LlamaModel>(
    this: new (
      address: Address,
      source: ModelSource,
    ) => T,
    path: string,
    options: ModelOptions = {},
  ): T {
    const maxDeviceCount = Number(llama().llama_max_devices())
    const problem = optionsProblem(options, maxDeviceCount)
    if (problem !== undefined) {
      throw new ModelLoadError({ reason: "options", path, message: problem, log: "" })
    }
    if (!existsSync(path)) {
      throw new ModelLoadError({
        reason: "file",
        path,
        message: `There is no model file ${path}: check the path.`,
        log: "",
      })
    }
    const address = loadNative(path, options, maxDeviceCount)
    if (address === null) throw loadError(path, options)
    const model = new this(address as Address, {
      path,
      noAlloc: options.noAlloc ?? false,
      vocabOnly: options.vocabOnly ?? false,
      cutOver: options.splitMode === "tensor" ? (options.devices ?? []) : [],
    })
    try {
      model.#addAdapters(options.adapters ?? [])
    } catch (error) {
      model.release()
      throw error
    }
    return model
  }

  /** @throws {ModelLoadError} */
  #addAdapters(adapters: ReadonlyArray<AdapterOptions>): void {
    // Their tensors go where the model's are.
    if (this.noAlloc || this.vocabOnly) return
    for (const { path, scale } of adapters) {
      takeLog()
      const address = this.#library.llama_adapter_lora_init(asPointer(this.address), cString(path))
      if (address === null) throw adapterError(path, this.path)
      this.#adapters.push({ address: address as Address, scale })
    }
  }

  /**
   * The tokens of a text.
   *
   * @throws {TokenizeError}
   */
  encodeText(text: string, options: TokenizeOptions = {}): Int32Array {
    this.#open()
    const fail = (reason: "none" | "text", message: string): never => {
      throw new TokenizeError({ reason, path: this.path, message })
    }
    if (!this.info.hasTokenizer) {
      fail(
        "none",
        `${this.path} has no tokenizer: give it token ids instead of text, or use a model file with one.`,
      )
    }
    return (
      this.#tokenize(new TextEncoder().encode(text), options) ??
      fail(
        "text",
        `The vocabulary of ${this.path} cannot express this text of ${text.length} characters (${String(this.#library.ls_last_error()) || "too many tokens"}): leave out the characters it does not know.`,
      )
    )
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

  /**
   * Makes a context; `release` of the context or of the model frees it.
   *
   * @throws {ContextError}
   */
  openContext(options: ContextOptions = {}): ModelContext {
    this.#open()
    if (this.vocabOnly) throw new Error(`${this.path} was loaded with vocabOnly: no context.`)
    const context = openModelContext(this, options)
    if (this.#adapters.length > 0) {
      this.#library.llama_set_adapters_lora(
        asPointer(context.address),
        BigUint64Array.from(this.#adapters, ({ address }) => BigInt(address)),
        this.#adapters.length,
        Float32Array.from(this.#adapters, ({ scale }) => scale),
      )
    }
    for (const known of this.#contexts) if (known.isReleased) this.#contexts.delete(known)
    this.#contexts.add(context)
    return context
  }

  /** Makes a sampler, which is the caller's to release. */
  openSampler(options: SamplerOptions = {}): Sampler {
    this.#open()
    return openSampler(
      {
        address: this.address,
        vocabSize: this.info.vocabSize,
        metadata: (key) => this.metadata(key),
        isEndOfGeneration: (token) => this.isEndOfGeneration(token),
      },
      options,
    )
  }

  /** Frees the model and its contexts; harmless when called again. */
  release(): void {
    if (this.#released) return
    this.#released = true
    // A context reads its model while it is freed.
    for (const context of this.#contexts) context.release()
    this.#library.llama_model_free(asPointer(this.address))
  }

  #open(): void {
    if (this.#released) throw new Error(`The model ${this.path} was used after its release.`)
  }
}

const noBytes = new Uint8Array(0)

/** INT32_MIN: no count that a larger block could help. */
const overflow = -(2 ** 31)

/** ggml-backend.cpp `GGML_SCHED_MAX_BACKENDS` (v0.5.0). */
const SCHEDULER_BACKENDS = 16

const optionsProblem = (options: ModelOptions, maxDeviceCount: number): string | undefined => {
  const count = options.devices?.length ?? 0
  // A context's scheduler aborts the process where there are more, and the CPU takes one of its places.
  const most = Math.min(maxDeviceCount, SCHEDULER_BACKENDS - 1)
  if (count > most) {
    return `${count} devices for one model: llama.cpp splits over at most ${most}; use fewer.`
  }
  const split = options.tensorSplit
  if (split !== undefined && split.length !== count) {
    return `The tensor split has ${split.length} numbers for ${count} devices: give one number for each.`
  }
  return undefined
}

/** llama_load_mode (llama.h): none, mapped, locked, both. */
const loadMode = ({ mmap = true, mlock = false }: ModelOptions): number =>
  (mmap ? 1 : 0) + (mlock ? 2 : 0)

/** What native code reads by address while the model is loaded. */
interface ModelArrays {
  /** Null-terminated. */
  readonly devices: BigUint64Array
  readonly split: Float32Array
  /** Patterns, null-terminated. */
  readonly patterns: ReadonlyArray<Uint8Array>
  /** shim/llama.cpp `tensor_override`. */
  readonly overrides: BigUint64Array
}

const modelArrays = (options: ModelOptions, maxDeviceCount: number): ModelArrays => {
  const split = new Float32Array(maxDeviceCount)
  split.set(options.tensorSplit ?? [])
  const { devices = [], overrides = [] } = options
  const patterns = overrides.map(({ pattern }) => cString(pattern))
  const pairs = overrides.flatMap(({ device }, index) => [ptr(patterns[index]!), device ?? 0])
  return {
    devices: BigUint64Array.from([...devices, 0], BigInt),
    split,
    patterns,
    overrides: BigUint64Array.from([...pairs, 0, 0], BigInt),
  }
}

/** In the order of shim/llama.cpp `model_options`. */
const modelBlock = (options: ModelOptions, { devices, split, overrides }: ModelArrays) =>
  Float64Array.of(
    devices.length > 1 ? ptr(devices) : 0,
    options.tensorSplit === undefined ? 0 : ptr(split),
    options.gpuLayers ?? -1,
    loadMode(options),
    options.noAlloc ? 1 : 0,
    options.vocabOnly ? 1 : 0,
    options.checkTensors ? 1 : 0,
    options.extraBufferTypes === false ? 0 : 1,
    options.abortFlag ?? 0,
    ptr(overrides),
    splitModes[options.splitMode ?? "layer"],
  )

/** llama_split_mode */
const splitModes = { layer: 1, tensor: 3 } as const

/** `llama_model *`, or null. */
const loadNative = (
  path: string,
  options: ModelOptions,
  maxDeviceCount: number,
): Pointer | null => {
  const arrays = modelArrays(options, maxDeviceCount)
  takeLog()
  inUse.add(arrays)
  const address = llama().ls_model_load(cString(path), modelBlock(options, arrays))
  inUse.delete(arrays)
  return address as Pointer | null
}

/** Arrays that native code reads by address, which the garbage collector cannot see. */
const inUse = new Set<object>()

const adapterError = (path: string, modelPath: string): ModelLoadError => {
  const log = takeFailureLog()
  return new ModelLoadError({
    reason: "adapter",
    path: modelPath,
    message: `The LoRA adapter ${path} cannot be used with ${modelPath}: ${existsSync(path) ? logTail(log) : "there is no such file"}.`,
    log,
  })
}

/** What newer models have, and later versions of llama.cpp know (llama-model.cpp, llama-vocab.cpp). */
const UNKNOWN = /(?:unknown|unsupported) (model architecture|pre-tokenizer type|tokenizer): '(.*)'/

/** Architectures whose tensors it does not cut (llama-model.cpp, llama_model_create). */
const UNCUT = /SPLIT_MODE_TENSOR not implemented for architecture '(.*)'/

const loadError = (path: string, options: ModelOptions): ModelLoadError => {
  const log = takeFailureLog()
  if (options.abortFlag !== undefined && io().io_abort_requested() !== 0) {
    return new ModelLoadError({
      reason: "aborted",
      path,
      message: `Loading ${path} was stopped.`,
      log,
    })
  }
  const [, what, name] = UNKNOWN.exec(log) ?? []
  if (what !== undefined) {
    return new ModelLoadError({
      reason: "model",
      path,
      message: `The llama.cpp that is used here (${llamaVersion}) does not know the ${what} '${name}' of ${path}: a newer release of ggml-rpc may.`,
      log,
    })
  }
  const [, uncut] = UNCUT.exec(log) ?? []
  if (uncut !== undefined) {
    return new ModelLoadError({
      reason: "options",
      path,
      message: `llama.cpp (${llamaVersion}) cannot cut the tensors of a model of the architecture '${uncut}' over devices: split layers (--split-mode layer).`,
      log,
    })
  }
  return saysOutOfMemory(log)
    ? new ModelLoadError({
        reason: "memory",
        path,
        message: `A device has no room for its part of ${path} (${logTail(log)}): give it fewer layers, add devices, or use a smaller quantization.`,
        log,
      })
    : new ModelLoadError({
        reason: "model",
        path,
        message: `llama.cpp could not load ${path}: ${logTail(log)}.`,
        log,
      })
}
