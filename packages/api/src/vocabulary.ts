/** What a model's file says of its vocabulary beyond what is known of a loaded one. */
import { type GgufFile, ggufInteger, loadGguf } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { ApiError } from "./ApiError.ts"
import { tokenize } from "./generate.ts"
import { Serving } from "./Serving.ts"

export const modelFile: Effect.Effect<GgufFile, ApiError, Serving> = Effect.gen(function* () {
  const { model } = yield* (yield* Serving).model
  return yield* Effect.mapError(
    loadGguf(model.plan.path),
    ({ message }) => new ApiError({ kind: "failed", message }),
  )
})

/** `tokenizer.ggml.add_KIND_token`; false. */
export const adds = (file: GgufFile, kind: "eos" | "sep"): boolean => {
  const value = file.metadata.get(`tokenizer.ggml.add_${kind}_token`)
  return value?.type === "bool" && value.value === true
}

/** A token that has a key for its id, or else one of these texts; undefined: the model has none. */
export const specialToken = (
  file: GgufFile,
  keys: ReadonlyArray<string>,
  texts: ReadonlyArray<string>,
): Effect.Effect<number | undefined, ApiError, Serving> =>
  Effect.gen(function* () {
    for (const key of keys) {
      const id = ggufInteger(file, `tokenizer.ggml.${key}_token_id`)
      if (id !== undefined) return id
    }
    for (const text of texts) {
      const tokens = yield* tokenize(text, { addSpecial: false })
      if (tokens.length === 1) return tokens[0]
    }
    return undefined
  })
