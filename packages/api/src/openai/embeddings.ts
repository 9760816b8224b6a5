/** `POST /v1/embeddings`. */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import { normalized } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { embed } from "../embeddings.ts"
import { optional, Prompts } from "../fields.ts"
import { tokenizePrompts } from "../prompts.ts"
import { Serving } from "../Serving.ts"

const EmbeddingsRequest = Schema.Struct({
  input: Prompts,
  model: optional(Schema.String),
  encoding_format: optional(Schema.Literal("float", "base64")),
  embd_normalize: optional(Schema.Int),
}).annotations({ identifier: "OpenAiEmbeddingsRequest" })

const Embeddings = Schema.Struct({
  object: Schema.Literal("list"),
  model: Schema.String,
  data: Schema.Array(
    Schema.Struct({
      object: Schema.Literal("embedding"),
      index: Schema.Int,
      embedding: Schema.Union(Schema.Array(Schema.Number), Schema.String),
    }),
  ),
  usage: Schema.Struct({ prompt_tokens: Schema.Int, total_tokens: Schema.Int }),
}).annotations({ identifier: "OpenAiEmbeddings" })

export const embeddingsEndpoint = HttpApiEndpoint.post("embeddings", "/v1/embeddings")
  .setPayload(EmbeddingsRequest)
  .addSuccess(Embeddings)

/** Little-endian f32. */
const base64 = ({ buffer, byteOffset, byteLength }: Float32Array): string =>
  Buffer.from(buffer, byteOffset, byteLength).toString("base64")

export const handleEmbeddings = ({
  payload,
}: {
  readonly payload: typeof EmbeddingsRequest.Type
}) =>
  Effect.gen(function* () {
    const { name } = yield* (yield* Serving).model
    const embedded = yield* embed(yield* tokenizePrompts(payload.input))
    const count = embedded.reduce((sum, { tokenCount }) => sum + tokenCount, 0)
    return {
      object: "list" as const,
      model: name,
      data: embedded.map(({ vector }, index) => {
        const unit = normalized(vector, payload.embd_normalize ?? 2)
        const embedding = payload.encoding_format === "base64" ? base64(unit) : [...unit]
        return { object: "embedding" as const, index, embedding }
      }),
      usage: { prompt_tokens: count, total_tokens: count },
    }
  })
