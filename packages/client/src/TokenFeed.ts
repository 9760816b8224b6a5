/** Tokens between the engine, which pushes them, and the stream that takes them. */
import * as Channel from "effect/Channel"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type { Answer } from "./Engine.ts"
import type { EngineRequest, GenerateStats, TokenData } from "./engine/messages.ts"
import type { ClusterError } from "./errors.ts"

export interface GeneratedToken {
  readonly id: number
  /** May be empty: characters come when they are complete. */
  readonly text: string
}

type End = Either.Either<Answer<EngineRequest & { type: "generate" }>, ClusterError>

type Taken = Effect.Effect<Chunk.Chunk<GeneratedToken> | undefined, ClusterError>

/** What a stream of tokens is made of. */
export type TokenChannel = Channel.Channel<
  Chunk.Chunk<GeneratedToken>,
  unknown,
  ClusterError,
  unknown,
  unknown
>

/**
 * An unbounded buffer for one taker. Plain rather than an Effect queue: it runs for every token of a slow
 * model, beside servers that may share this machine.
 */
export class TokenFeed {
  readonly #onStats: (stats: GenerateStats) => void
  #tokens: Array<GeneratedToken> = []
  #end: End | undefined
  /** Waits for tokens or the end. */
  #taker: ((taken: Taken) => void) | undefined
  /** Waits for the end only. */
  #watcher: (() => void) | undefined

  /** `onStats` is called once all tokens were taken. */
  constructor(onStats: (stats: GenerateStats) => void) {
    this.#onStats = onStats
  }

  push(tokens: ReadonlyArray<TokenData>): void {
    this.#append(tokens)
    this.#wakeTaker()
  }

  finish(end: End): void {
    if (Either.isRight(end)) {
      const { tokens, text } = end.right.event
      this.#append(tokens)
      if (text !== "") this.#tokens.push({ id: -1, text })
    }
    this.#end = end
    this.#wakeTaker()
    this.#watcher?.()
  }

  #append(tokens: ReadonlyArray<TokenData>): void {
    for (const [id, text] of tokens) this.#tokens.push({ id, text })
  }

  get hasFinished(): boolean {
    return this.#end !== undefined
  }

  /** Ends when the engine has ended the generation, however. */
  readonly finished: Effect.Effect<void> = Effect.async((resume) => {
    this.#watcher = () => resume(Effect.void)
    if (this.hasFinished) this.#watcher()
  })

  /** What has come since the last call; undefined at the end of the tokens. */
  readonly take: Taken = Effect.async((resume) => {
    this.#taker = resume
    if (this.#tokens.length > 0 || this.hasFinished) this.#wakeTaker()
    return Effect.sync(() => {
      this.#taker = undefined
    })
  })

  /** All tokens until the end, as they come. */
  readonly tokens: TokenChannel = Channel.flatMap(Channel.fromEffect(this.take), (taken) =>
    taken === undefined ? Channel.void : Channel.flatMap(Channel.write(taken), () => this.tokens),
  )

  #wakeTaker(): void {
    const taker = this.#taker
    this.#taker = undefined
    taker?.(this.#tokens.length > 0 ? this.#takeTokens() : this.#takeEnd())
  }

  #takeTokens(): Taken {
    const tokens = this.#tokens
    this.#tokens = []
    return Effect.succeed(Chunk.unsafeFromArray(tokens))
  }

  #takeEnd(): Taken {
    const end = this.#end!
    if (Either.isLeft(end)) return Effect.fail(end.left)
    this.#onStats(end.right.event.stats)
    return Effect.succeed(undefined)
  }
}
