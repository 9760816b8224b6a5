/** Whose words an answer is in, by the path of its request. */
import type * as Schema from "effect/Schema"
import type { ApiError } from "./ApiError.ts"
import { AnthropicError, anthropicError } from "./anthropic/errors.ts"
import { LlamaError, llamaError } from "./llama/errors.ts"
import { OllamaError, ollamaError } from "./ollama/errors.ts"
import { OpenAiError, openAiError } from "./openai/errors.ts"

interface Dialect {
  /** Paths that begin so. */
  readonly prefix: string
  readonly errorBody: (error: ApiError) => object
  readonly ErrorBody: Schema.Schema.Any
}

/** The first that fits counts. */
const dialects: readonly [...ReadonlyArray<Dialect>, Dialect] = [
  { prefix: "/v1/messages", errorBody: anthropicError, ErrorBody: AnthropicError },
  { prefix: "/v1/", errorBody: openAiError, ErrorBody: OpenAiError },
  { prefix: "/api/", errorBody: ollamaError, ErrorBody: OllamaError },
  { prefix: "/", errorBody: llamaError, ErrorBody: LlamaError },
]

export const dialectOf = (path: string): Dialect =>
  dialects.find(({ prefix }) => path.startsWith(prefix)) ?? dialects[dialects.length - 1]!

/** Paths under which llama-server offers the same endpoints too. */
const aliases: Readonly<Record<string, string>> = {
  "/v1/health": "/health",
  "/models": "/v1/models",
  "/completions": "/completion",
  "/chat/completions": "/v1/chat/completions",
  "/responses": "/v1/responses",
  "/embeddings": "/embedding",
  "/reranking": "/rerank",
  "/v1/rerank": "/rerank",
  "/v1/reranking": "/rerank",
}

/** The path by which an endpoint is defined. */
export const canonicalPath = (path: string): string => aliases[path] ?? path
