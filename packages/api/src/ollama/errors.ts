/** Errors as Ollama tells them. */
import * as Schema from "effect/Schema"
import type { ApiError } from "../ApiError.ts"

export const OllamaError = Schema.Struct({ error: Schema.String }).annotations({
  identifier: "OllamaError",
})

export const ollamaError = ({ message }: ApiError): typeof OllamaError.Type => ({ error: message })
