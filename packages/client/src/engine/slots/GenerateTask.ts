/** A prompt in, tokens out, one after the other. */
import {
  type Detokenizer,
  decodeStatusText,
  type ModelContext,
  type Sampler,
  SamplerError,
} from "@ggml-rpc/native/bindings/llama"
import { EngineRequestError, ModelError } from "../../errors.ts"
import { failedBy } from "../failure.ts"
import { type Loaded, roomOf } from "../Loaded.ts"
import type { EngineRequest, StopReason, TokenLogprobs } from "../messages.ts"
import type { Send } from "../requests/index.ts"
import { tokenLogprobs } from "./logprobs.ts"
import type { SlotsHost } from "./Slots.ts"
import { StopTexts } from "./StopTexts.ts"
import type { Place, Task } from "./Task.ts"
import type { TokenWriter } from "./TokenWriter.ts"

export interface GenerateTaskOptions {
  readonly id: number
  readonly request: EngineRequest & { readonly type: "generate" }
  readonly loaded: Loaded
  readonly host: SlotsHost
  readonly writer: TokenWriter
  readonly send: Send
}

/**
 * Generates until the model ends the text, one of the stop texts comes up, the limit, a full context, or a cancel: each
 * ends it with the stats.
 */
export class GenerateTask implements Task {
  readonly id: number
  readonly tokens: Array<number>
  readonly outputs = "last"
  readonly isWhole = false
  readonly candidateCount: number
  readonly reusesCache: boolean
  readonly slot: number
  readonly #options: GenerateTaskOptions
  readonly #sampler: Sampler
  readonly #detokenizer: Detokenizer
  readonly #stops: StopTexts
  #place: Place | undefined
  #cachedCount = 0
  #tokenCount = 0
  #draftedCount = 0
  #acceptedCount = 0
  #startedAt = 0
  /** 0: the prompt is not computed yet. */
  #promptEndedAt = 0

  /** @throws {ModelError} for a sampler or a prompt that cannot be */
  constructor(options: GenerateTaskOptions) {
    const { request, loaded } = options
    const { info } = loaded.model
    this.#options = options
    this.id = options.id
    this.tokens = info.hasEncoder ? [decoderStart(loaded)] : [...request.tokens]
    this.reusesCache = !info.hasEncoder && request.settings.cachePrompt !== false
    this.slot = request.settings.slot ?? -1
    this.#checkPrompt()
    this.#detokenizer = loaded.model.detokenizer(request.settings.controlText)
    this.#stops = new StopTexts(request.settings.stop ?? [])
    this.#sampler = this.#openSampler()
    // Probabilities are among all tokens.
    const needsAll = request.settings.topLogprobs !== undefined
    this.candidateCount = needsAll ? 0 : this.#sampler.candidateCount
  }

  begin(place: Place): boolean {
    this.#place = place
    // It may have had a slot before.
    if (this.#startedAt !== 0) return false
    this.#startedAt = performance.now()
    this.#cachedCount = place.cachedCount
    const { hasEncoder } = this.#options.loaded.model.info
    if (hasEncoder && !this.#encode()) return this.#finish("cancelled")
    // What is penalized for being there lately may have been there in the prompt; a decoder's text is another than the encoder's.
    for (const token of this.tokens) this.#sampler.accept(token)
    return false
  }

  take(context: ModelContext, _first: number, _count: number, index: number): boolean {
    const { request, loaded } = this.#options
    // Of logits that a lost server did not send, nothing is chosen.
    context.synchronize()
    this.#options.host.failIfLost()
    if (this.#promptEndedAt === 0) this.#promptEndedAt = performance.now()
    if (request.maxTokens === 0) return this.#finish("token-limit")
    const token = this.#sample(context, index)
    if (loaded.model.isEndOfGeneration(token)) return this.#finish("end-of-text")
    this.#tokenCount++
    this.#give(token, this.#logprobs(context, token, index))
    if (this.#stops.found !== undefined) return this.#finish("stop-text")
    if (this.#tokenCount === request.maxTokens) return this.#finish("token-limit")
    // As upstream, which shifts one token before there is no room.
    if (this.tokens.length + 1 >= roomOf(loaded)) this.#shift()
    if (this.tokens.length >= roomOf(loaded)) return this.#finish("context-full")
    this.tokens.push(token)
    return false
  }

  get draftRoom(): number {
    const { request, loaded } = this.#options
    const { maxTokens, settings } = request
    const room = Math.min(
      roomOf(loaded) - this.tokens.length - 1,
      settings.draftCount ?? Number.POSITIVE_INFINITY,
    )
    return maxTokens < 0 ? room : Math.min(room, maxTokens - this.#tokenCount - 1)
  }

  drafted(count: number, acceptedCount: number): void {
    this.#draftedCount += count
    this.#acceptedCount += acceptedCount
  }

  cancel(): void {
    if (this.#startedAt !== 0) this.#finish("cancelled")
    else this.fail(new EngineRequestError({ reason: "cancelled", detail: "" }))
  }

  fail(error: unknown): void {
    const { send, writer } = this.#options
    this.#sampler.release()
    // What was computed before a failure is the user's all the same.
    const tokens = writer.take(this.id)
    if (tokens.length > 0) send({ type: "generating", tokens })
    send(failedBy(error))
  }

  #give(token: number, logprobs: TokenLogprobs | undefined): void {
    const text = this.#stops.push(this.#detokenizer.push(token))
    this.#options.writer.push(
      this.id,
      logprobs === undefined ? [token, text] : [token, text, logprobs],
    )
  }

  #finish(stopReason: StopReason): true {
    const { send, writer, request } = this.#options
    this.#sampler.release()
    const now = performance.now()
    const promptEndedAt = this.#promptEndedAt || now
    const rest = this.#detokenizer.finish()
    const stopText = this.#stops.found
    const text = stopText === undefined ? this.#stops.push(rest) + this.#stops.finish() : ""
    send({
      type: "generated",
      tokens: writer.take(this.id),
      text,
      stats: {
        promptTokenCount: request.tokens.length,
        cachedTokenCount: this.#cachedCount,
        promptMs: promptEndedAt - this.#startedAt,
        tokenCount: this.#tokenCount,
        generateMs: now - promptEndedAt,
        ...(this.#draftedCount === 0
          ? {}
          : { draftedCount: this.#draftedCount, acceptedCount: this.#acceptedCount }),
        stopReason,
        ...(stopText === undefined ? {} : { stopText }),
        slot: this.#place?.slot ?? -1,
      },
    })
    return true
  }

  /** False when it was cancelled meanwhile. */
  #encode(): boolean {
    const { request, loaded, host } = this.#options
    host.setRunning(this.id)
    const status = loaded.context.encode(Int32Array.from(request.tokens))
    host.setRunning(0)
    host.failIfLost()
    if (status === 0) return true
    if (host.isCancelled(this.id)) return false
    const detail = `${decodeStatusText(status)}.`
    throw new ModelError({ path: loaded.path, during: "encode", detail })
  }

  #sample(context: ModelContext, index: number): number {
    try {
      return this.#sampler.sample(context, index)
    } catch (error) {
      throw error instanceof SamplerError ? this.#error(error.message) : error
    }
  }

  #logprobs(context: ModelContext, token: number, index: number): TokenLogprobs | undefined {
    const { request, loaded } = this.#options
    const count = request.settings.topLogprobs
    return count === undefined
      ? undefined
      : tokenLogprobs(loaded.model, context.logprobs(token, count, index))
  }

  #shift(): void {
    const { request, loaded } = this.#options
    const { contextShift, keepTokens = 0 } = request.settings
    // A token's place in a table of positions is in its cells for good.
    if (contextShift !== true || loaded.options.positionCount !== undefined) return
    const { length } = request.tokens
    const isWhole = keepTokens < 0 || keepTokens > length
    const kept = isWhole ? length : keepTokens + (loaded.model.info.addsBeginToken ? 1 : 0)
    this.#place!.shift(Math.min(kept, this.tokens.length - SHIFT_LEAST))
  }

  #openSampler(): Sampler {
    const { request, loaded } = this.#options
    try {
      return loaded.model.openSampler(request.sampler)
    } catch (error) {
      throw error instanceof SamplerError ? this.#error(error.message) : error
    }
  }

  #checkPrompt(): void {
    const { request, loaded } = this.#options
    const { model, context, options } = loaded
    const { length } = request.tokens
    const room = roomOf(loaded)
    if (options.embeddings) {
      throw this.#error(
        "it puts out embeddings, so it cannot generate text; 'verify' can evaluate it.",
      )
    }
    if (model.info.isDiffusion) {
      throw this.#error(
        "it is a diffusion model, which does not generate text token by token; 'verify' can evaluate it.",
      )
    }
    if (!model.info.hasDecoder) {
      throw this.#error(
        "it has an encoder only, so it cannot generate text; 'verify' can evaluate it.",
      )
    }
    if (length === 0) throw this.#error("the prompt has no tokens; give it some text.")
    if (length >= room) {
      throw this.#error(
        `the prompt has ${length} tokens, but the context holds ${room}; raise --ctx-size or shorten the prompt.`,
      )
    }
    if (model.info.hasEncoder && length > context.ubatchSize) {
      throw this.#error(
        `its encoder looks at all tokens at once, and the prompt's ${length} do not fit a batch of ${context.ubatchSize}; raise --ubatch-size.`,
      )
    }
  }

  #error(detail: string): ModelError {
    return new ModelError({ path: this.#options.loaded.path, during: "request", detail })
  }
}

/** A shift that gives less room would be followed by the next one at once. */
const SHIFT_LEAST = 4

/** The token that a decoder's text begins with; what the encoder gets is another one. */
const decoderStart = ({ model: { info } }: Loaded): number =>
  info.decoderStartToken >= 0 ? info.decoderStartToken : info.beginToken
