/** What an answer must look like. */
import { type ChatTemplate, grammarOfSchema, grammarOfTools } from "@ggml-rpc/chat"
import * as Effect from "effect/Effect"
import { type ApiError, invalidRequest } from "../ApiError.ts"
import type { ChatRequest } from "./ChatRequest.ts"

const orInvalid = <A>(make: () => A): Effect.Effect<A, ApiError> =>
  Effect.try({
    try: make,
    catch: (error) => invalidRequest(error instanceof Error ? error.message : String(error)),
  })

export const schemaGrammar = (schema: unknown): Effect.Effect<string, ApiError> =>
  orInvalid(() => grammarOfSchema(schema))

/** That of a call that must come, or else that of the schema; undefined: the answer is free. */
export const chatGrammar = (
  { schema, tools = [], toolChoice = "auto", parallelToolCalls }: ChatRequest,
  template: ChatTemplate,
  prompt: string,
): Effect.Effect<string | undefined, ApiError> =>
  Effect.gen(function* () {
    const wanted = typeof toolChoice === "string" ? undefined : toolChoice.function.name
    if (wanted !== undefined && tools.every(({ function: { name } }) => name !== wanted)) {
      return yield* invalidRequest(`There is no tool '${wanted}' to choose.`, "tool_choice")
    }
    if (toolChoice === "required" && tools.length === 0) {
      return yield* invalidRequest("A tool is required, and there is none.", "tool_choice")
    }
    const calls = yield* orInvalid(() =>
      grammarOfTools(template, tools, toolChoice, { prompt, parallel: parallelToolCalls }),
    )
    return calls ?? (schema === undefined ? undefined : yield* schemaGrammar(schema))
  })
