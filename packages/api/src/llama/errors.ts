/** Errors as llama-server tells them. */
import * as Schema from "effect/Schema"
import type { ApiError, ErrorKind } from "../ApiError.ts"

export const LlamaError = Schema.Struct({
  error: Schema.Struct({
    code: Schema.Int,
    message: Schema.String,
    type: Schema.String,
    n_prompt_tokens: Schema.optional(Schema.Int),
    n_ctx: Schema.optional(Schema.Int),
  }),
}).annotations({ identifier: "LlamaError" })

const types: Record<ErrorKind, string> = {
  "invalid-request": "invalid_request_error",
  "prompt-too-long": "exceed_context_size_error",
  unauthorized: "authentication_error",
  forbidden: "permission_error",
  "not-found": "not_found_error",
  "too-large": "invalid_request_error",
  "queue-full": "unavailable_error",
  failed: "server_error",
  "not-supported": "not_supported_error",
  unavailable: "unavailable_error",
}

/** What a prompt that is too long says of itself. */
export const lengths = ({ promptTokenCount, contextSize }: ApiError) =>
  promptTokenCount === undefined || contextSize === undefined
    ? {}
    : { n_prompt_tokens: promptTokenCount, n_ctx: contextSize }

export const llamaError = (error: ApiError): typeof LlamaError.Type => ({
  error: {
    code: error.status,
    message: error.message,
    type: types[error.kind],
    ...lengths(error),
  },
})
