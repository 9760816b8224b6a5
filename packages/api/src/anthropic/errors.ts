/** Errors as Anthropic tells them. */
import * as Schema from "effect/Schema"
import type { ApiError, ErrorKind } from "../ApiError.ts"

export const AnthropicError = Schema.Struct({
  type: Schema.Literal("error"),
  error: Schema.Struct({ type: Schema.String, message: Schema.String }),
}).annotations({ identifier: "AnthropicError" })

const types: Record<ErrorKind, string> = {
  "invalid-request": "invalid_request_error",
  "prompt-too-long": "invalid_request_error",
  unauthorized: "authentication_error",
  forbidden: "permission_error",
  "not-found": "not_found_error",
  "too-large": "request_too_large",
  "queue-full": "rate_limit_error",
  failed: "api_error",
  "not-supported": "invalid_request_error",
  unavailable: "overloaded_error",
}

export const anthropicError = ({ kind, message }: ApiError): typeof AnthropicError.Type => ({
  type: "error",
  error: { type: types[kind], message },
})
