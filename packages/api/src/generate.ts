/** One text of the model, admitted, counted, and with errors that a client can act on. */
import type { Cluster, ClusterError, GenerateStats } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { ApiError, invalidRequest } from "./ApiError.ts"
import { Serving } from "./Serving.ts"

/** What the engine finds wrong with a request: a grammar that is none, a penalty that is too small, a slot that there is not. */
const requestFaults: ReadonlySet<string> = new Set(["request", "tokenize", "slot"])

const toApiError = (error: ClusterError): ApiError => {
  // Where the model's file lies is nobody's business: the detail alone is told.
  if (error._tag === "ModelError") {
    return requestFaults.has(error.during)
      ? invalidRequest(`The request cannot be followed: ${error.detail}`)
      : new ApiError({ kind: "failed", message: `The model could not go on: ${error.detail}` })
  }
  return new ApiError({ kind: isEnd(error) ? "unavailable" : "failed", message: error.message })
}

/** Tokens that a text can have: the context's, or fewer where the model knows no place behind them. */
export const roomOf = ({ contextSize, plan }: Cluster.ClusterModel): number =>
  Math.min(contextSize, plan.context.positionCount ?? Number.POSITIVE_INFINITY)

/** Before a text waits for a slot, which it could only get in vain. */
export const checkLength = (
  tokenCount: number,
  room: number,
  param: string,
): Effect.Effect<void, ApiError> => {
  if (tokenCount === 0) return Effect.fail(invalidRequest("The text is empty.", param))
  if (tokenCount <= room) return Effect.void
  return Effect.fail(
    new ApiError({
      kind: "prompt-too-long",
      message: `The text has ${tokenCount} tokens, and there is room for ${room}: shorten it, or start the server with a larger --ctx-size.`,
      promptTokenCount: tokenCount,
      contextSize: room,
    }),
  )
}

/** As `ClusterModel.generateEach`; an interruption stops the model. */
export const generate = (
  tokens: ReadonlyArray<number>,
  options: Cluster.GenerateOptions,
  onToken: (token: Cluster.GeneratedToken) => void,
): Effect.Effect<GenerateStats, ApiError, Serving> =>
  Effect.gen(function* () {
    const serving = yield* Serving
    const { model } = yield* serving.model
    // An answer needs a token.
    yield* checkLength(tokens.length, roomOf(model) - 1, "prompt")
    const take = (token: Cluster.GeneratedToken): void => {
      serving.activity.generatedTokenCount += 1
      onToken(token)
    }
    const stats = yield* askModel((own) => own.generateEach(tokens, take, options))
    serving.activity.add(stats)
    return stats
  })

/** Asks the model. What ends it for good, an engine or a server that is gone, is told to whoever started the server. */
export const askModel = <A>(
  ask: (model: Cluster.ClusterModel) => Effect.Effect<A, ClusterError>,
): Effect.Effect<A, ApiError, Serving> =>
  Effect.gen(function* () {
    const serving = yield* Serving
    const { model } = yield* serving.model
    return yield* ask(model).pipe(
      Effect.tapError((error) => (isEnd(error) ? serving.end(error) : Effect.void)),
      Effect.mapError(toApiError),
    )
  })

const isEnd = ({ _tag }: ClusterError): boolean =>
  _tag === "EngineEndedError" || _tag === "ServerLostError"

export const tokenize = (
  text: string,
  options?: Cluster.TokenizeOptions,
): Effect.Effect<ReadonlyArray<number>, ApiError, Serving> =>
  askModel((model) => model.tokenize(text, options))
