/** The decode loop: a prompt in, tokens out, one after the other. */
import {
  type Detokenizer,
  decodeStatusText,
  type LlamaModel,
  type ModelContext,
  type Sampler,
  SamplerError,
  type SamplerOptions,
} from "@ggml-rpc/native/bindings/llama"
import { ModelError } from "../errors.ts"
import type { GenerateStats, StopReason } from "./messages.ts"

/** A loaded model, and what the loop must look at between its steps. */
export interface Subject {
  readonly model: LlamaModel
  readonly context: ModelContext
  readonly path: string
  /** Tokens that a text can have. */
  readonly room: number
  /** Throws the error of a lost connection. */
  readonly failIfLost: () => void
  readonly isCancelled: () => boolean
}

export interface GenerateRequest {
  readonly tokens: ReadonlyArray<number>
  /** -1: until the model ends the text or the context is full. */
  readonly maxTokens: number
  readonly sampler: SamplerOptions
}

export interface GenerateSink {
  readonly onToken: (id: number, text: string) => void
}

/** Text that was left of an unfinished character, and what it took. */
export interface Generated {
  readonly text: string
  readonly stats: GenerateStats
}

/** Leaves the loop from wherever the cancel was noticed. */
class Cancelled extends Error {}

/**
 * Generates until the model ends the text, the limit, a full context, or a cancel.
 *
 * @throws {ClusterError}
 */
export const generate = (
  subject: Subject,
  request: GenerateRequest,
  sink: GenerateSink,
): Generated => {
  const sampler = openSampler(subject, request.sampler)
  try {
    return new Generation(subject, request, sink, sampler).run()
  } finally {
    sampler.release()
  }
}

const openSampler = ({ model, path }: Subject, options: SamplerOptions): Sampler => {
  try {
    return model.openSampler(options)
  } catch (error) {
    if (!(error instanceof SamplerError)) throw error
    throw new ModelError({ path, during: "decode", detail: error.message })
  }
}

class Generation {
  readonly #subject: Subject
  readonly #request: GenerateRequest
  readonly #sink: GenerateSink
  readonly #sampler: Sampler
  readonly #detokenizer: Detokenizer
  readonly #next = new Int32Array(1)
  /** Tokens in the decoder's cache. */
  #position = 0
  #tokenCount = 0
  #promptMs = 0
  #generateStarted = performance.now()

  constructor(subject: Subject, request: GenerateRequest, sink: GenerateSink, sampler: Sampler) {
    this.#subject = subject
    this.#request = request
    this.#sink = sink
    this.#sampler = sampler
    this.#detokenizer = subject.model.detokenizer()
  }

  run(): Generated {
    const stopReason = this.#stopReason()
    return {
      text: this.#detokenizer.finish(),
      stats: {
        promptTokenCount: this.#request.tokens.length,
        promptMs: this.#promptMs,
        tokenCount: this.#tokenCount,
        generateMs: performance.now() - this.#generateStarted,
        stopReason,
      },
    }
  }

  #stopReason(): StopReason {
    try {
      this.#evaluatePrompt()
      return this.#loop()
    } catch (error) {
      if (error instanceof Cancelled) return "cancelled"
      throw error
    }
  }

  #evaluatePrompt(): void {
    const { context } = this.#subject
    context.clearMemory()
    const started = performance.now()
    this.#decodePrompt(this.#promptTokens())
    context.synchronize()
    this.#subject.failIfLost()
    this.#promptMs = performance.now() - started
    this.#generateStarted = performance.now()
  }

  #promptTokens(): Int32Array {
    const { room } = this.#subject
    const prompt = Int32Array.from(this.#request.tokens)
    if (prompt.length === 0) throw this.#error("the prompt has no tokens; give it some text.")
    if (prompt.length >= room) {
      throw this.#error(
        `the prompt has ${prompt.length} tokens, but the context holds ${room}; raise --ctx-size or shorten the prompt.`,
      )
    }
    return prompt
  }

  #decodePrompt(prompt: Int32Array): void {
    const { context, model } = this.#subject
    const { info } = model
    if (!info.hasEncoder) {
      for (let at = 0; at < prompt.length; at += context.batchSize) {
        this.#decode(prompt.subarray(at, at + context.batchSize))
      }
      // What is penalized for being there lately may have been there in the prompt.
      for (const token of prompt) this.#sampler.accept(token)
      return
    }
    if (!info.hasDecoder) {
      throw this.#error(
        "it has an encoder only, so it cannot generate text; 'verify' can evaluate it.",
      )
    }
    this.#check(context.encode(prompt))
    this.#next[0] = info.decoderStartToken >= 0 ? info.decoderStartToken : info.beginToken
    this.#decode(this.#next)
    // The decoder's text begins with it; what the encoder got is another one.
    this.#sampler.accept(this.#next[0])
  }

  #decode(tokens: Int32Array): void {
    if (this.#subject.isCancelled()) throw new Cancelled()
    this.#check(this.#subject.context.decode(tokens))
    this.#position += tokens.length
  }

  #sample(): number {
    try {
      return this.#sampler.sample(this.#subject.context)
    } catch (error) {
      throw error instanceof SamplerError ? this.#error(error.message) : error
    }
  }

  #check(status: number): void {
    this.#subject.failIfLost()
    if (status === 0) return
    if (this.#subject.isCancelled()) throw new Cancelled()
    throw this.#error(`${decodeStatusText(status)}.`)
  }

  #error(detail: string): ModelError {
    return new ModelError({ path: this.#subject.path, during: "decode", detail })
  }

  #loop(): StopReason {
    const { model, room, failIfLost } = this.#subject
    const { maxTokens } = this.#request
    for (;;) {
      if (this.#tokenCount === maxTokens) return "token-limit"
      const token = this.#sample()
      failIfLost()
      if (model.isEndOfGeneration(token)) return "end-of-text"
      this.#tokenCount++
      this.#sink.onToken(token, this.#detokenizer.push(token))
      if (this.#tokenCount === maxTokens) return "token-limit"
      if (this.#position >= room) return "context-full"
      this.#next[0] = token
      this.#decode(this.#next)
    }
  }
}
