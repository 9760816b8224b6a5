import {
  decodeStatusText,
  formatNeededMebibytes,
  type ModelContext,
} from "@ggml-rpc/native/bindings/llama"
import { EngineRequestError, ModelError } from "../../errors.ts"
import { failedBy } from "../failure.ts"
import { type Loaded, roomOf } from "../Loaded.ts"
import type { Send } from "../requests/index.ts"
import type { SlotsHost } from "./Slots.ts"
import type { Place, Task } from "./Task.ts"

export interface OutputTaskOptions {
  readonly id: number
  readonly tokens: ReadonlyArray<number>
  readonly loaded: Loaded
  readonly host: SlotsHost
  readonly send: Send
}

/** A text whose tokens all give an output, and which no token follows. */
abstract class OutputTask implements Task {
  readonly id: number
  readonly tokens: Array<number>
  readonly outputs = "all"
  readonly candidateCount = 0
  readonly isWhole: boolean
  readonly reusesCache = false
  readonly slot = -1
  readonly draftRoom = 0
  protected readonly loaded: Loaded
  protected readonly host: SlotsHost
  protected readonly send: Send
  #hasBegun = false

  /** @throws {ModelError} for tokens that cannot be computed */
  constructor({ id, tokens, loaded, host, send }: OutputTaskOptions, isWhole: boolean) {
    this.id = id
    this.tokens = [...tokens]
    this.loaded = loaded
    this.host = host
    this.send = send
    this.isWhole = isWhole
    this.#checkLength()
  }

  begin(_: Place): boolean {
    this.#hasBegun = true
    return false
  }

  drafted(): void {}

  abstract take(context: ModelContext, first: number, count: number, index: number): boolean

  cancel(): void {
    this.fail(
      this.#hasBegun
        ? this.error("it was stopped.", "decode")
        : new EngineRequestError({ reason: "cancelled", detail: "" }),
    )
  }

  fail(error: unknown): void {
    this.send(failedBy(error))
  }

  protected error(detail: string, during: "request" | "decode" = "request"): ModelError {
    return new ModelError({ path: this.loaded.path, during, detail })
  }

  #checkLength(): void {
    const { ubatchSize } = this.loaded.context
    const { length } = this.tokens
    if (length === 0) throw this.error("there are no tokens.")
    const room = roomOf(this.loaded)
    if (length > room) {
      throw this.error(
        `${length} tokens do not fit its context of ${room}; raise --ctx-size or give fewer tokens.`,
      )
    }
    if (this.isWhole && length > ubatchSize) {
      throw this.error(
        `it looks at all tokens at once, and ${length} do not fit a batch of ${ubatchSize}; raise --ubatch-size.`,
      )
    }
  }
}

/** An array of JavaScript holds no more than twice of it, and the host has it as well. */
const MAX_OUTPUT_BYTES = 2 ** 31

/** Logits, or embeddings, of every token. */
export class EvaluateTask extends OutputTask {
  readonly #isEmbedding: boolean
  readonly #columnCount: number
  #values = new Float32Array(0)

  constructor(options: OutputTaskOptions) {
    super(options, options.loaded.options.wholeBatch)
    const { info } = this.loaded.model
    this.#isEmbedding = this.loaded.options.embeddings || !info.hasDecoder
    this.#columnCount = this.#isEmbedding ? info.outputEmbeddingSize : info.vocabSize
    const sizeBytes = this.tokens.length * this.#columnCount * Float32Array.BYTES_PER_ELEMENT
    if (sizeBytes > MAX_OUTPUT_BYTES) {
      throw this.error(
        `${this.tokens.length} tokens give ${formatNeededMebibytes(sizeBytes)} of output, more than the ${formatNeededMebibytes(MAX_OUTPUT_BYTES)} that can be handed over at once; give fewer tokens.`,
      )
    }
  }

  override begin(place: Place): boolean {
    super.begin(place)
    this.#values = new Float32Array(this.tokens.length * this.#columnCount)
    const { model, context } = this.loaded
    if (!model.info.hasEncoder) return false
    this.host.setRunning(this.id)
    const status = context.encode(Int32Array.from(this.tokens), { allOutputs: true })
    this.host.setRunning(0)
    this.host.failIfLost()
    if (status !== 0) {
      if (this.host.isCancelled(this.id)) throw this.error("it was stopped.", "decode")
      const detail = `${decodeStatusText(status)}.`
      throw new ModelError({ path: this.loaded.path, during: "encode", detail })
    }
    return !model.info.hasDecoder && this.take(context, 0, this.tokens.length, 0)
  }

  take(context: ModelContext, first: number, count: number, index: number): boolean {
    context.synchronize()
    this.host.failIfLost()
    for (let row = 0; row < count; row++) {
      const output = this.#isEmbedding
        ? context.embeddings(index + row)
        : context.logits(index + row)
      this.#values.set(output, (first + row) * this.#columnCount)
    }
    if (first + count < this.tokens.length) return false
    this.send(
      {
        type: "evaluated",
        kind: this.#isEmbedding ? "embeddings" : "logits",
        rowCount: this.tokens.length,
        columnCount: this.#columnCount,
        bytes: this.#values.byteLength,
      },
      new Uint8Array(this.#values.buffer),
    )
    return true
  }
}

/** One embedding of the whole text, or what a classifier says of it. */
export class EmbedTask extends OutputTask {
  #sequence = 0

  constructor(options: OutputTaskOptions) {
    // What is pooled must be in one step.
    super(options, true)
    if (!this.loaded.options.embeddings) {
      throw this.error(
        "it was loaded to generate text, not for embeddings; load it with embeddings.",
      )
    }
    if (this.loaded.context.pooling <= 0) {
      throw this.error(
        "it gives an embedding for each token and none for a text; choose with --pooling how they become one.",
      )
    }
  }

  override begin(place: Place): boolean {
    this.#sequence = place.sequence
    return super.begin(place)
  }

  take(context: ModelContext): boolean {
    context.synchronize()
    this.host.failIfLost()
    const pooled = context.sequenceEmbeddings(this.#sequence)
    if (pooled === undefined) throw this.error("it put out no embedding of the text.", "decode")
    const values = Float32Array.from(pooled)
    this.send(
      { type: "embedded", columnCount: values.length, bytes: values.byteLength },
      new Uint8Array(values.buffer),
    )
    return true
  }
}
