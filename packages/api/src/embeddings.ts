/** Embeddings of texts, by a model that was loaded for them. */
import * as Effect from "effect/Effect"
import { type ApiError, notSupported } from "./ApiError.ts"
import { askModel, checkLength, refusal, roomOf } from "./generate.ts"
import { Serving } from "./Serving.ts"

export interface Embedded {
  readonly vector: Float32Array
  /** Of its text. */
  readonly tokenCount: number
}

/** llama-server's numbers: -1 none, 0 by the largest value, 1 by the sum, 2 Euclidean, above: that norm. */
export type Normalization = number

const normOf = (vector: Float32Array, kind: Normalization): number => {
  if (kind < 0) return 1
  if (kind === 0) return vector.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 32760
  return vector.reduce((sum, value) => sum + Math.abs(value) ** kind, 0) ** (1 / kind)
}

export const normalized = (vector: Float32Array, kind: Normalization): Float32Array => {
  const norm = normOf(vector, kind)
  return norm === 0 ? vector : vector.map((value) => value / norm)
}

/** llama_pooling_type NONE: an embedding a token, and none of the text. */
const NO_POOLING = 0

/** As the model puts them out. */
export const embed = (
  texts: ReadonlyArray<ReadonlyArray<number>>,
): Effect.Effect<ReadonlyArray<Embedded>, ApiError, Serving> =>
  Effect.gen(function* () {
    const { activity, model: served } = yield* Serving
    const { model } = yield* served
    const { embeddings, pooling = NO_POOLING } = model.plan.context
    if (!embeddings || pooling === NO_POOLING) {
      return yield* notSupported("This server gives no embeddings: start it with --embeddings.")
    }
    return yield* activity.each(texts, (tokens) =>
      Effect.gen(function* () {
        yield* checkLength(tokens.length, roomOf(model), "input")
        const vector = yield* askModel((own) => own.embed(tokens), refusal)
        return { vector, tokenCount: tokens.length }
      }),
    )
  })
