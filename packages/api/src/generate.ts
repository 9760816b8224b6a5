/** One text of the model, admitted, counted, and with errors that a client can act on. */
import type { Cluster, ClusterError, GenerateStats } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { ApiError, invalidRequest } from "./ApiError.ts"
import { Serving } from "./Serving.ts"

export const toApiError = (error: ClusterError): ApiError =>
  new ApiError({
    kind: error._tag === "EngineEndedError" ? "unavailable" : "failed",
    message: error.message,
  })

/** What the engine refuses before it begins is the request's fault: a grammar that is none, a penalty that is too small. */
const refusal = (error: ClusterError): ApiError =>
  error._tag === "ModelError"
    ? invalidRequest(`The request cannot be followed: ${error.detail}`)
    : toApiError(error)

/** Before it waits for a slot, which it could only get in vain. */
const checkLength = (tokenCount: number, contextSize: number): Effect.Effect<void, ApiError> => {
  if (tokenCount === 0) return Effect.fail(invalidRequest("The prompt is empty.", "prompt"))
  if (tokenCount < contextSize) return Effect.void
  return Effect.fail(
    new ApiError({
      kind: "prompt-too-long",
      message: `The prompt has ${tokenCount} tokens, and the context holds ${contextSize}: shorten it, or start the server with a larger --ctx-size.`,
      promptTokenCount: tokenCount,
      contextSize,
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
    yield* checkLength(tokens.length, model.contextSize)
    const leave = yield* Effect.try({
      try: () => serving.activity.enter(),
      catch: (error) => error as ApiError,
    })
    let isBegun = false
    const take = (token: Cluster.GeneratedToken): void => {
      isBegun = true
      serving.activity.generatedTokenCount += 1
      onToken(token)
    }
    const stats = yield* model.generateEach(tokens, take, options).pipe(
      Effect.mapError((error) => (isBegun ? toApiError(error) : refusal(error))),
      Effect.ensuring(Effect.sync(leave)),
    )
    serving.activity.add(stats)
    return stats
  })

export const tokenize = (
  text: string,
  options?: Cluster.TokenizeOptions,
): Effect.Effect<ReadonlyArray<number>, ApiError, Serving> =>
  Effect.gen(function* () {
    const { model } = yield* (yield* Serving).model
    return yield* Effect.mapError(model.tokenize(text, options), toApiError)
  })
