/** One generation in the engine, as its host sees it. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Stream from "effect/Stream"
import type { EngineHost } from "./EngineHost.ts"
import type { EngineRequest, GenerateStats, TokenData, TokenLogprobs } from "./engine/messages.ts"
import type { ClusterError } from "./errors.ts"

export interface GeneratedToken {
  /** -1: no token, but what was left of an unfinished character at the end. */
  readonly id: number
  /** May be empty: characters come when they are complete, and what may begin a stop text when it does not. */
  readonly text: string
  /** Where they were asked for. */
  readonly logprobs?: TokenLogprobs
}

type GenerateRequest = EngineRequest & { readonly type: "generate" }

/**
 * Calls `onToken` for each token as it comes, and ends with the stats. What `onToken` throws ends the generation
 * as a defect. However it ends early, the engine stops it within a batch.
 *
 * Plain calls, no fiber that wakes up: they run for every token of a slow model, beside servers that may share
 * this machine, and with an Effect a token the host would take three times its processor time.
 */
export const generateEach = (
  engine: Pick<EngineHost, "begin">,
  request: GenerateRequest,
  onToken: (token: GeneratedToken) => void,
): Effect.Effect<GenerateStats, ClusterError> =>
  Effect.async((resume) => {
    let isWanted = true
    const deliver = (tokens: ReadonlyArray<TokenData>): void => {
      for (const [id, text, logprobs] of tokens) {
        if (isWanted) onToken(logprobs === undefined ? { id, text } : { id, text, logprobs })
      }
    }
    const guard = (action: () => void): void => {
      try {
        action()
      } catch (error) {
        stop()
        resume(Effect.die(error))
      }
    }
    const cancel = engine.begin(
      request,
      (event) => {
        if (event.type === "generating") guard(() => deliver(event.tokens))
      },
      (end) =>
        guard(() => {
          if (Either.isRight(end)) {
            const { tokens, text } = end.right.event
            deliver(tokens)
            if (text !== "") deliver([[-1, text]])
          }
          resume(Either.map(end, ({ event }) => event.stats))
        }),
    )
    const stop = (): void => {
      isWanted = false
      cancel()
    }
    return Effect.sync(stop)
  })

/** What `each` gives to its callback, as a stream; `onStats` is called when the last token is there. */
export const tokenStream = (
  each: (onToken: (token: GeneratedToken) => void) => Effect.Effect<GenerateStats, ClusterError>,
  onStats: (stats: GenerateStats) => void,
): Stream.Stream<GeneratedToken, ClusterError> =>
  Stream.asyncPush<GeneratedToken, ClusterError>(
    (emit) =>
      Effect.forkScoped(
        Effect.matchCauseEffect(
          Effect.map(
            each((token) => emit.single(token)),
            onStats,
          ),
          {
            onFailure: (cause) => Effect.sync(() => emit.halt(cause)),
            onSuccess: () => Effect.sync(() => emit.end()),
          },
        ),
      ),
    { bufferSize: "unbounded" },
  )
