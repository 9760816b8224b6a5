/** `POST /api/embed`. */

import { normalized } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { embed } from "../embeddings.ts"
import { optional } from "../fields.ts"
import { roomOf } from "../generate.ts"
import { tokenizePrompts } from "../prompts.ts"
import { Serving } from "../Serving.ts"

export const EmbedRequest = Schema.Struct({
  model: optional(Schema.String),
  input: Schema.Union(Schema.String, Schema.Array(Schema.String)),
  /** A text that is too long is cut, unless this is false. */
  truncate: optional(Schema.Boolean),
}).annotations({ identifier: "OllamaEmbedRequest" })

export const EmbedAnswer = Schema.Struct({
  model: Schema.String,
  embeddings: Schema.Array(Schema.Array(Schema.Number)),
  total_duration: Schema.Int,
  load_duration: Schema.Int,
  prompt_eval_count: Schema.Int,
}).annotations({ identifier: "OllamaEmbedAnswer" })

export const handleEmbed = ({ payload }: { readonly payload: typeof EmbedRequest.Type }) =>
  Effect.gen(function* () {
    const { name, model } = yield* (yield* Serving).model
    const startedAt = performance.now()
    const tokens = yield* tokenizePrompts(payload.input)
    const embedded = yield* embed(
      payload.truncate === false ? tokens : tokens.map((text) => text.slice(0, roomOf(model))),
    )
    return {
      model: name,
      embeddings: embedded.map(({ vector }) => [...normalized(vector, 2)]),
      total_duration: Math.round((performance.now() - startedAt) * 1e6),
      load_duration: 0,
      prompt_eval_count: embedded.reduce((sum, { tokenCount }) => sum + tokenCount, 0),
    }
  })
