/** `POST /tokenize` and `/detokenize`. */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { MixedPrompt, optional } from "../fields.ts"
import { askModel } from "../generate.ts"
import { tokenizePrompt } from "../prompts.ts"

const Tokenize = Schema.Struct({
  content: Schema.Union(Schema.String, MixedPrompt),
  add_special: optional(Schema.Boolean),
  parse_special: optional(Schema.Boolean),
  with_pieces: optional(Schema.Boolean),
}).annotations({ identifier: "TokenizeRequest" })

const Detokenize = Schema.Struct({ tokens: Schema.Array(Schema.NonNegativeInt) }).annotations({
  identifier: "DetokenizeRequest",
})

const Piece = Schema.Struct({ id: Schema.Int, piece: Schema.String })

export const tokenizeEndpoint = HttpApiEndpoint.post("tokenize", "/tokenize")
  .setPayload(Tokenize)
  .addSuccess(Schema.Struct({ tokens: Schema.Array(Schema.Union(Schema.Int, Piece)) }))

export const detokenizeEndpoint = HttpApiEndpoint.post("detokenize", "/detokenize")
  .setPayload(Detokenize)
  .addSuccess(Schema.Struct({ content: Schema.String }))

export const detokenize = (tokens: ReadonlyArray<number>) =>
  askModel((model) => model.detokenize(tokens))

export const handleTokenize = ({ payload }: { readonly payload: typeof Tokenize.Type }) =>
  Effect.gen(function* () {
    const { content, add_special = false, parse_special = true, with_pieces = false } = payload
    const options = { addSpecial: add_special, parseSpecial: parse_special }
    const tokens = yield* tokenizePrompt(content, options)
    if (!with_pieces) return { tokens }
    return {
      tokens: yield* Effect.forEach(tokens, (id) =>
        Effect.map(detokenize([id]), (piece) => ({ id, piece })),
      ),
    }
  })

export const handleDetokenize = ({ payload }: { readonly payload: typeof Detokenize.Type }) =>
  Effect.map(detokenize(payload.tokens), (content) => ({ content }))
