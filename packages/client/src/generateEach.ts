/** One generation in the engine, as its host sees it. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Stream from "effect/Stream"
import type { Answer, EngineHost } from "./EngineHost.ts"
import type { EngineRequest, GenerateStats, TokenData } from "./engine/messages.ts"
import type { ClusterError } from "./errors.ts"

export interface GeneratedToken {
  /** -1: no token, but what was left of an unfinished character at the end. */
  readonly id: number
  /** May be empty: characters come when they are complete. */
  readonly text: string
}

type GenerateRequest = EngineRequest & { readonly type: "generate" }

type End = Either.Either<Answer<GenerateRequest>, ClusterError>

/**
 * Calls `onToken` for each token as it comes, and ends with the stats. What `onToken` throws ends the generation
 * as a defect. However it ends, the engine is free for the next request afterwards.
 *
 * Plain calls, no fiber that wakes up: they run for every token of a slow model, beside servers that may share
 * this machine, and with an Effect a token the host would take three times its processor time.
 */
export const generateEach = (
  engine: Pick<EngineHost, "begin" | "settle">,
  request: GenerateRequest,
  onToken: (token: GeneratedToken) => void,
): Effect.Effect<GenerateStats, ClusterError> =>
  Effect.suspend(() => {
    let end: End | undefined
    let isWanted = true
    let onEnd = (): void => {}
    let cancel = (): boolean => true
    const deliver = (tokens: ReadonlyArray<TokenData>): void => {
      for (const [id, text] of tokens) {
        if (isWanted) onToken({ id, text })
      }
    }
    const generated = Effect.async<GenerateStats, ClusterError>((resume) => {
      const guard = (action: () => void): void => {
        try {
          action()
        } catch (error) {
          isWanted = false
          resume(Effect.die(error))
        }
      }
      cancel = engine.begin(
        request,
        (event) => {
          if (event.type === "generating") guard(() => deliver(event.tokens))
        },
        (given) => {
          end = given
          guard(() => {
            if (Either.isRight(given)) {
              const { tokens, text } = given.right.event
              deliver(tokens)
              if (text !== "") deliver([[-1, text]])
            }
          })
          resume(Either.map(given, ({ event }) => event.stats))
          onEnd()
        },
      )
    })
    const finished = Effect.async<void>((resume) => {
      onEnd = () => resume(Effect.void)
      if (end !== undefined) onEnd()
    })
    // After an interruption the engine works on until it notices the cancel; what it has not begun it never will.
    const stop = Effect.suspend(() => {
      isWanted = false
      return end !== undefined || cancel() ? Effect.void : engine.settle(finished)
    })
    return Effect.ensuring(generated, stop)
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
