/** `POST /embedding`: llama-server's own form. */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import { normalized } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { invalidRequest } from "../ApiError.ts"
import { embed } from "../embeddings.ts"
import { optional, Prompts } from "../fields.ts"
import { tokenizePrompts } from "../prompts.ts"

const EmbeddingRequest = Schema.Struct({
  content: optional(Prompts),
  input: optional(Prompts),
  embd_normalize: optional(Schema.Int),
}).annotations({ identifier: "LlamaEmbeddingRequest" })

const Embedding = Schema.Struct({
  index: Schema.Int,
  /** One row: the text's. */
  embedding: Schema.Array(Schema.Array(Schema.Number)),
})

export const embeddingEndpoint = HttpApiEndpoint.post("embedding", "/embedding")
  .setPayload(EmbeddingRequest)
  .addSuccess(Schema.Array(Embedding))

export const handleEmbedding = ({ payload }: { readonly payload: typeof EmbeddingRequest.Type }) =>
  Effect.gen(function* () {
    const prompts = payload.content ?? payload.input
    if (prompts === undefined) {
      return yield* invalidRequest("'content' or 'input' must be there.", "content")
    }
    const embedded = yield* embed(yield* tokenizePrompts(prompts))
    return embedded.map(({ vector }, index) => ({
      index,
      embedding: [[...normalized(vector, payload.embd_normalize ?? 2)]],
    }))
  })
