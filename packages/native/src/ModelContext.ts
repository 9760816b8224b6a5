/** A llama context: the KV cache and compute buffers of one conversation with a model. */
import { type Pointer, ptr, toArrayBuffer } from "bun:ffi"
import type { Batch } from "./Batch.ts"
import { DeviceCandidates } from "./DeviceCandidates.ts"
import { logTail, saysOutOfMemory, takeFailureLog } from "./failureLog.ts"
import { type GraphShare, surveyGraph } from "./graphSurvey.ts"
import { type Address, asPointer, cString } from "./io.ts"
import { ggml, takeLog } from "./libggml.ts"
import { llama } from "./libllama.ts"
import type { ModelInfo } from "./ModelInfo.ts"
import { defaultThreadCount } from "./processor.ts"
import { ReadCandidates } from "./ReadCandidates.ts"
import { TaggedError } from "./taggedError.ts"

/** ggml_type numbers (ggml.h) of the types that a KV cache can have, by llama-cli's names. */
export const kvTypes = {
  f32: 0,
  f16: 1,
  bf16: 30,
  q8_0: 8,
  q4_0: 2,
  q4_1: 3,
  iq4_nl: 20,
  q5_0: 6,
  q5_1: 7,
} as const

export type KvTypeName = keyof typeof kvTypes

/** Defaults are llama-cli's. */
export interface ContextOptions {
  /** Tokens that the KV cache holds; 0, the default, takes the model's training size. */
  readonly contextSize?: number
  /** Most tokens of one `decode`; 2048. */
  readonly batchSize?: number
  /** Tokens that are computed at once; 512. */
  readonly ubatchSize?: number
  /** Threads of a local CPU for single tokens; one per physical core. */
  readonly threads?: number
  /** The same for prompts; as `threads`. */
  readonly threadsBatch?: number
  /** -1 where the devices can (the default), 0 never, 1 always. */
  readonly flashAttention?: -1 | 0 | 1
  /** Type of the K cache, one of `kvTypes`; F16. */
  readonly typeK?: number
  /** Type of the V cache, one of `kvTypes`; F16. */
  readonly typeV?: number
  /** Gives embeddings for every token. */
  readonly embeddings?: boolean
  /** llama_pooling_type: 0 none, 1 mean, 2 first token, 3 last, 4 rank; -1, the default, is the model's. */
  readonly pooling?: number
  /** Keeps the KV cache on the devices of the layers; true. */
  readonly offloadKqv?: boolean
  /** Gives layers with sliding-window attention a full-size cache. */
  readonly swaFull?: boolean
  /** How positions turn; the model's way. */
  readonly rope?: RopeOptions
  /** `io_abort_flag()`: lets it stop a running computation on a local CPU. */
  readonly abortFlag?: Address
  /** Independent sequences, which share the cells of the cache; 1, at most 256. */
  readonly sequenceCount?: number
  /** Most outputs of a `decode`, for which the devices keep room; as many as tokens. */
  readonly outputCount?: number
  /**
   * Outputs may be the most likely tokens alone, found where the logits are; absent: they are always all logits.
   *
   * `graph`: a part of the graph finds them, until `wantCandidates` says otherwise. The output's device must be one of which
   * `findsCandidates` says that it can. `read`: once `wantCandidates` says so, servers that know how find them as the logits are read; of
   * others, and of batches with a sequence that wants all, all logits come.
   */
  readonly candidates?: "graph" | "read"
}

/** Rotary position embedding and its YaRN extension; what is absent is the model's. */
export interface RopeOptions {
  readonly scaling?: keyof typeof ropeScalingTypes
  readonly freqBase?: number
  /** Context grows by 1 / this. */
  readonly freqScale?: number
  /** Tokens that the model was trained with. */
  readonly yarnOrigCtx?: number
  readonly yarnExtFactor?: number
  readonly yarnAttnFactor?: number
  readonly yarnBetaSlow?: number
  readonly yarnBetaFast?: number
}

/** llama_rope_scaling_type (llama.h), by llama-cli's names. */
export const ropeScalingTypes = { none: 0, linear: 1, yarn: 2 } as const

/** No context for this model with these options. */
export class ContextError extends TaggedError("ContextError")<{
  /** `memory`: a device could not hold the cache or the compute buffers; `model`: anything else. */
  readonly reason: "memory" | "model"
  readonly message: string
  /** What ggml and llama logged about it. */
  readonly log: string
}> {}

/** Memory of one buffer type on one device, in bytes. */
export interface MemoryBreakdownRow {
  readonly bufferTypeName: string
  /** null when ggml names no device for the buffer type, as for the CPU's. */
  readonly deviceAddress: Address | null
  /** Whether this is memory of this machine that the CPU can address. */
  readonly isHost: boolean
  /** Weights. */
  readonly modelBytes: number
  /** KV cache and recurrent state. */
  readonly contextBytes: number
  readonly computeBytes: number
}

export interface DecodeOptions {
  /** Position of the first token in its sequence; without it llama counts on. */
  readonly firstPosition?: number
  /** Gives logits (or embeddings) for every token, not only for the last one. */
  readonly allOutputs?: boolean
}

/** What a status of `decode` or `encode` other than 0 means. */
export const decodeStatusText = (status: number): string => {
  switch (status) {
    case 0:
      return "success"
    case 1:
      return "the KV cache has no room for these tokens"
    case 2:
      return "aborted"
    case -1:
      return "the tokens or positions are not valid"
    case -2:
      return "out of memory"
    case -100:
      return String(llama().ls_last_error())
    default:
      return "the computation failed"
  }
}

/** What `ModelContext` needs to know of the model it belongs to. */
export interface ContextModel {
  readonly address: Address
  readonly info: ModelInfo
  /** The weights are simulated: memory can be measured, nothing can be computed. */
  readonly noAlloc: boolean
  /** Devices that each tensor is cut over; none where layers are split. */
  readonly cutOver: ReadonlyArray<Address>
}

/** Doubles per row of `ls_memory_breakdown`, in the order of shim/llama_memory.cpp `breakdown_row`. */
const rowFields = 6

/**
 * A context that can compute. The methods are synchronous and block until llama returns; they throw
 * (as defects: a caller can know better) when used after `release` or with an impossible count.
 */
export class ModelContext {
  readonly address: Address
  /** Tokens in the KV cache; llama may round what was asked for. */
  readonly contextSize: number
  readonly batchSize: number
  readonly ubatchSize: number
  /** llama_pooling_type in use: 0 none, 1 mean, 2 first token, 3 last, 4 rank. */
  readonly pooling: number
  /** Most outputs of a `decode`. */
  readonly outputCount: number
  readonly #candidates: DeviceCandidates | ReadCandidates | undefined
  readonly #reads: ReadCandidates | undefined
  readonly #library = llama()
  readonly #pointer: Pointer
  readonly #memory: Pointer | null
  readonly #model: ContextModel
  #released = false
  #view = new Float32Array(0)
  #viewAddress: Address = 0

  constructor(
    address: Address,
    model: ContextModel,
    outputCount: number,
    candidates: DeviceCandidates | ReadCandidates | undefined,
  ) {
    const pointer = asPointer(address)
    this.address = address
    this.contextSize = this.#library.llama_n_ctx(pointer)
    this.batchSize = this.#library.llama_n_batch(pointer)
    this.ubatchSize = this.#library.llama_n_ubatch(pointer)
    this.pooling = this.#library.llama_pooling_type(pointer)
    this.#pointer = pointer
    this.#memory = this.#library.llama_get_memory(pointer) as Pointer | null
    this.#model = model
    this.outputCount = outputCount
    this.#candidates = candidates
    this.#reads = candidates instanceof ReadCandidates ? candidates : undefined
  }

  /**
   * Computes the next tokens of sequence 0.
   *
   * @returns 0 success; 1 no room in the KV cache (make room or decode fewer); 2 aborted; negative
   *   failed, see `decodeStatusText`. Computing may go on: `logits` and `synchronize` wait for it.
   */
  decode(tokens: Int32Array, options: DecodeOptions = {}): number {
    // A context without a cache is an encoder's, whose decode is its encode.
    this.#check(tokens, this.#memory === null ? this.ubatchSize : this.batchSize)
    this.#reads?.beginWhole()
    return this.#library.ls_decode(
      this.#pointer,
      tokens,
      tokens.length,
      options.firstPosition ?? -1,
      options.allOutputs ? 1 : 0,
    )
  }

  /**
   * Computes the next tokens of several sequences, each at the position that the batch says; the status is that of
   * `decode`. Outputs are found by the indexes that `Batch.add` gave.
   */
  decodeBatch(batch: Batch): number {
    const { tokens, positions, sequences, outputs, count } = batch
    this.#checkCount(count, this.#memory === null ? this.ubatchSize : this.batchSize)
    this.#reads?.begin(batch)
    const status = this.#library.ls_decode_batch(
      this.#pointer,
      tokens,
      positions,
      sequences,
      outputs,
      count,
    )
    this.#reads?.end()
    return status
  }

  /** Runs the encoder over a whole input of at most `ubatchSize` tokens; the status is that of `decode`. */
  encode(tokens: Int32Array, options: DecodeOptions = {}): number {
    this.#check(tokens, this.ubatchSize)
    if (this.#memory !== null && !this.#model.info.hasEncoder) {
      throw new Error(`${this.#model.info.description} has no encoder: use decode.`)
    }
    this.#reads?.beginWhole()
    return this.#library.ls_encode(
      this.#pointer,
      tokens,
      tokens.length,
      options.firstPosition ?? -1,
      options.allOutputs ? 1 : 0,
    )
  }

  /**
   * Logits after one token of the last `decode`: `vocabSize` of them. The view shows llama's own
   * memory: it is valid until the next `decode`, and not after `release`.
   *
   * @param index the token's place in that `decode`; negative counts from the last output: -1 is it
   */
  logits(index = -1): Float32Array {
    this.#checkWhole(index)
    const address = this.#library.llama_get_logits_ith(this.#open(), index)
    if (address === null) throw new RangeError(noOutput("logits", index))
    return this.#floats(address as Pointer, this.#model.info.vocabSize)
  }

  /** @throws {RangeError} where `index` has no output; see `logits`. Makes no view of it. */
  checkOutput(index = -1): void {
    if (this.#library.llama_get_logits_ith(this.#open(), index) === null) {
      throw new RangeError(noOutput("logits", index))
    }
  }

  /**
   * Natural logarithms of probabilities after one token of the last `decode`, by its logits alone: of `token` first, then
   * of the `count` most likely tokens, falling.
   */
  logprobs(token: number, count: number, index = -1): ReadonlyArray<readonly [number, number]> {
    this.#checkWhole(index)
    // The shim's function does not look whether there are logits.
    this.checkOutput(index)
    const size = Math.min(count, this.#model.info.vocabSize) + 1
    const tokens = new Int32Array(size)
    const logprobs = new Float32Array(size)
    if (this.#library.ls_logprobs(this.#pointer, index, token, size - 1, tokens, logprobs) < 0) {
      throw new RangeError(fewLogits(index))
    }
    return Array.from(tokens, (found, place) => [found, logprobs[place]!] as const)
  }

  /**
   * What a sequence needs of its outputs from the next `decode` on: at least `count` of the most likely tokens with their
   * logits, or 0, all logits. Nothing for a context without `candidates`, whose outputs are always all.
   */
  wantCandidates(sequence: number, count: number): void {
    this.#candidates?.want(sequence, count, this.#open())
  }

  /** For the shim's samplers: what of the last decode's logits was read, where it may be less than all. */
  get foundRows(): Uint8Array | null {
    return this.#reads?.rows ?? null
  }

  /** Logits of the last `count` outputs, row after row; valid as long as those of `logits`. */
  allLogits(count: number): Float32Array {
    this.#checkWhole(-count)
    const address = this.#library.llama_get_logits_ith(this.#open(), -count)
    if (address === null) throw new RangeError(noOutput("logits", -count))
    return this.#floats(address as Pointer, count * this.#model.info.vocabSize)
  }

  /** Embeddings of one token, where nothing is pooled; valid as long as those of `logits`. */
  embeddings(index = -1): Float32Array {
    const address = this.#library.llama_get_embeddings_ith(this.#open(), index)
    if (address === null) throw new RangeError(noOutput("embeddings", index))
    return this.#floats(address as Pointer, this.#model.info.outputEmbeddingSize)
  }

  /**
   * Pooled embeddings of a sequence, with rank pooling its scores; undefined when nothing was pooled.
   * Valid as long as those of `logits`.
   */
  sequenceEmbeddings(sequence = 0): Float32Array | undefined {
    const address = this.#library.llama_get_embeddings_seq(this.#open(), sequence)
    if (address === null) return undefined
    const { classCount, outputEmbeddingSize } = this.#model.info
    return this.#floats(address as Pointer, this.pooling === 4 ? classCount : outputEmbeddingSize)
  }

  /** Waits until everything that `decode` started is computed. */
  synchronize(): void {
    this.#library.llama_synchronize(this.#open())
  }

  /** Forgets all tokens. */
  clearMemory(): void {
    this.#library.llama_memory_clear(this.#openMemory(), true)
  }

  /**
   * Forgets the tokens of a sequence from `position` on; false when the model's memory cannot forget
   * a part (recurrent models).
   */
  removeFrom(position: number, sequence = 0): boolean {
    return this.#library.llama_memory_seq_rm(this.#openMemory(), sequence, position, -1)
  }

  /** Lets sequence `to`, which must be empty, begin as `from` does up to `end`; they share these cells. */
  copySequence(from: number, to: number, end: number): void {
    this.#library.llama_memory_seq_cp(this.#openMemory(), from, to, 0, end)
  }

  /** The least position that is in the cache for a sequence: above 0 where a sliding window has passed; -1 for none. */
  firstPosition(sequence: number): number {
    return this.#library.llama_memory_seq_pos_min(this.#openMemory(), sequence)
  }

  /** Whether positions in the cache can be changed. */
  get canShift(): boolean {
    const memory = this.#openMemory()
    return memory !== null && this.#library.llama_memory_can_shift(memory)
  }

  /** Forgets the tokens of a sequence in [from, to) and moves what is behind them to `from`; false when it cannot. */
  shift(sequence: number, from: number, to: number): boolean {
    const memory = this.#openMemory()
    if (!this.#library.llama_memory_seq_rm(memory, sequence, from, to)) return false
    this.#library.llama_memory_seq_add(memory, sequence, to, -1, from - to)
    return true
  }

  /** Writes what the cache holds of a sequence, and the tokens that it came of, to a file; false when it cannot. */
  saveSequence(path: string, sequence: number, tokens: Int32Array): boolean {
    const file = cString(path)
    const count = tokens.length
    // ptr of an empty array would be null.
    const block = count === 0 ? new Int32Array(1) : tokens
    return (
      Number(this.#library.llama_state_seq_save_file(this.#open(), file, sequence, block, count)) >
      0
    )
  }

  /** Reads such a file into a sequence; the tokens, or undefined when it is none that fits this context. */
  restoreSequence(path: string, sequence: number): Int32Array | undefined {
    const tokens = new Int32Array(this.contextSize)
    const count = new BigUint64Array(1)
    const size = this.#library.llama_state_seq_load_file(
      this.#open(),
      cString(path),
      sequence,
      tokens,
      tokens.length,
      count,
    )
    return Number(size) === 0 ? undefined : tokens.slice(0, Number(count[0]))
  }

  /** What the model and this context take, one row a buffer type; before it computes anything. */
  memoryBreakdown(): ReadonlyArray<MemoryBreakdownRow> {
    const pointer = this.#open()
    const devices = this.#model.cutOver
    const addresses = BigUint64Array.from([...devices, 0], BigInt)
    const fill = (block: Float64Array): number =>
      this.#library.ls_memory_breakdown(
        pointer,
        addresses,
        devices.length,
        block,
        block.length / rowFields,
      )
    let block = new Float64Array(rowFields * 32)
    let count = fill(block)
    if (count > 32) {
      block = new Float64Array(rowFields * count)
      count = fill(block)
    }
    return Array.from({ length: Math.max(0, count) }, (_, index) => {
      const [bufferType, device, isHost, modelBytes, contextBytes, computeBytes] = block.subarray(
        index * rowFields,
      ) as unknown as [number, number, number, number, number, number]
      return {
        bufferTypeName: String(ggml().ggml_backend_buft_name(asPointer(bufferType))),
        deviceAddress: device === 0 ? null : device,
        isHost: isHost !== 0,
        modelBytes,
        contextBytes,
        computeBytes,
      }
    })
  }

  /**
   * How the graph of a token falls on devices, in their order, where the model was loaded with noAlloc; undefined when it
   * has no such graph.
   */
  surveyGraph(devices: ReadonlyArray<Address>): ReadonlyArray<GraphShare> | undefined {
    const pointer = this.#open()
    if (!this.#model.noAlloc) {
      throw new Error(
        "Only a model that was loaded with noAlloc can be surveyed: it computes nothing.",
      )
    }
    return surveyGraph(pointer, devices)
  }

  get isReleased(): boolean {
    return this.#released
  }

  /** Frees the context; harmless when called again. */
  release(): void {
    if (this.#released) return
    this.#released = true
    this.#view = new Float32Array(0)
    // After a failure answers of remote devices may be on their way, to memory that is freed here.
    this.#library.llama_synchronize(this.#pointer)
    this.#library.llama_free(this.#pointer)
    this.#candidates?.release()
  }

  #checkWhole(index: number): void {
    if (this.#reads?.hasFound) throw new RangeError(fewLogits(index))
  }

  #open(): Pointer {
    if (this.#released) throw new Error("The model context was used after its release.")
    return this.#pointer
  }

  #openMemory(): Pointer | null {
    this.#open()
    return this.#memory
  }

  /** llama aborts the process on these. */
  #check(tokens: Int32Array, most: number): void {
    this.#checkCount(tokens.length, most)
  }

  #checkCount(count: number, most: number): void {
    this.#open()
    if (count === 0 || count > most) {
      throw new RangeError(
        `${count} tokens in one batch: this context takes 1 to ${most}; split them, or raise the batch size.`,
      )
    }
    if (this.#model.noAlloc) {
      throw new Error("The model was loaded with noAlloc, to measure memory: it cannot compute.")
    }
  }

  /** A view costs a microsecond and an allocation, and the output seldom moves. */
  #floats(address: Pointer, count: number): Float32Array {
    if (this.#viewAddress !== address || this.#view.length !== count) {
      this.#view = new Float32Array(toArrayBuffer(address, 0, count * 4))
      this.#viewAddress = address
    }
    return this.#view
  }
}

const noOutput = (what: string, index: number): string =>
  `There are no ${what} at index ${index}: the last batch gave no output there.`

const fewLogits = (index: number): string =>
  `Output ${index} has the most likely tokens alone, not all logits, which probabilities are among: see wantCandidates.`

/** In the order of shim/llama.cpp `context_options`. */
const contextBlock = (
  options: ContextOptions,
  chains: BigUint64Array | undefined,
): Float64Array => {
  const threads = options.threads ?? defaultThreadCount()
  return Float64Array.of(
    options.contextSize ?? 0,
    options.batchSize ?? 2048,
    options.ubatchSize ?? 512,
    options.sequenceCount ?? 1,
    threads,
    options.threadsBatch ?? threads,
    options.flashAttention ?? -1,
    options.typeK ?? kvTypes.f16,
    options.typeV ?? kvTypes.f16,
    options.embeddings ? 1 : 0,
    options.pooling ?? -1,
    options.offloadKqv === false ? 0 : 1,
    options.swaFull ? 1 : 0,
    options.abortFlag ?? 0,
    options.outputCount ?? 0,
    chains === undefined ? 0 : ptr(chains),
    ...ropeFields(options.rope ?? {}),
  )
}

/** NaN: not given. */
const ropeFields = (rope: RopeOptions): ReadonlyArray<number> =>
  [
    rope.scaling === undefined ? Number.NaN : ropeScalingTypes[rope.scaling],
    ...[rope.freqBase, rope.freqScale, rope.yarnOrigCtx, rope.yarnExtFactor],
    ...[rope.yarnAttnFactor, rope.yarnBetaSlow, rope.yarnBetaFast],
  ].map((value) => value ?? Number.NaN)

/**
 * Makes a context, which is the caller's to release.
 *
 * @throws {ContextError}
 */
export const openModelContext = (model: ContextModel, options: ContextOptions): ModelContext => {
  takeLog()
  const candidates = newCandidates(model, options)
  const chains = candidates?.chains
  const block = contextBlock(options, chains)
  const address = llama().ls_context_new(asPointer(model.address), block)
  if (address === null) {
    candidates?.release()
    throw contextError(model, options)
  }
  const outputCount = options.outputCount || Number.POSITIVE_INFINITY
  return new ModelContext(address as Address, model, outputCount, candidates)
}

const newCandidates = (
  { info }: ContextModel,
  { candidates, sequenceCount = 1 }: ContextOptions,
): DeviceCandidates | ReadCandidates | undefined => {
  switch (candidates) {
    case "graph":
      return new DeviceCandidates(sequenceCount)
    case "read":
      return new ReadCandidates(sequenceCount, info.vocabSize)
    case undefined:
      return undefined
  }
}

const contextError = (model: ContextModel, options: ContextOptions): ContextError => {
  const log = takeFailureLog()
  const size = options.contextSize || model.info.trainContextSize
  return saysOutOfMemory(log)
    ? new ContextError({
        reason: "memory",
        message: `No device has room for a context of ${size} tokens of ${model.info.description} (${logTail(log)}): lower the context size, use a smaller KV cache type, or move layers to other devices.`,
        log,
      })
    : new ContextError({
        reason: "model",
        message: `llama.cpp made no context of ${size} tokens for ${model.info.description}: ${logTail(log)}.`,
        log,
      })
}
