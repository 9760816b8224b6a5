/** Embeddings of texts, by a model that was loaded for them. */
import * as Effect from "effect/Effect"
import { type ApiError, notSupported } from "./ApiError.ts"
import { askModel, checkLength, roomOf } from "./generate.ts"
import { Serving } from "./Serving.ts"

export interface Embedded {
  readonly vector: Float32Array
  /** Of its text. */
  readonly tokenCount: number
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
        const vector = yield* askModel((own) => own.embed(tokens))
        return { vector, tokenCount: tokens.length }
      }),
    )
  })
