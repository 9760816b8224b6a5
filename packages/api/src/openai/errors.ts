/** Errors as OpenAI tells them. */
import * as Schema from "effect/Schema"
import type { ApiError, ErrorKind } from "../ApiError.ts"
import { lengths } from "../llama/errors.ts"

export const OpenAiError = Schema.Struct({
  error: Schema.Struct({
    message: Schema.String,
    type: Schema.String,
    param: Schema.NullOr(Schema.String),
    code: Schema.NullOr(Schema.String),
    n_prompt_tokens: Schema.optional(Schema.Int),
    n_ctx: Schema.optional(Schema.Int),
  }),
}).annotations({ identifier: "OpenAiError" })

const request = "invalid_request_error"

const words: Record<ErrorKind, readonly [type: string, code: string | null]> = {
  "invalid-request": [request, null],
  "prompt-too-long": [request, "context_length_exceeded"],
  unauthorized: [request, "invalid_api_key"],
  forbidden: [request, "forbidden"],
  "not-found": [request, "unknown_url"],
  "too-large": [request, "request_too_large"],
  "queue-full": ["rate_limit_error", "rate_limit_exceeded"],
  failed: ["server_error", null],
  "not-supported": ["not_supported_error", null],
  unavailable: ["server_error", "model_not_ready"],
}

export const openAiError = (error: ApiError): typeof OpenAiError.Type => {
  const [type, code] = words[error.kind]
  return {
    error: { message: error.message, type, param: error.param ?? null, code, ...lengths(error) },
  }
}
