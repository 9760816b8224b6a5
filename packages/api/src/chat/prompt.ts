/** The text that a model continues when it answers a chat. */
import { type ChatTemplate, contentText } from "@ggml-rpc/chat"
import * as Effect from "effect/Effect"
import { type ApiError, invalidRequest } from "../ApiError.ts"
import { Serving, type ServingOptions } from "../Serving.ts"
import type { ChatRequest } from "./ChatRequest.ts"

export type Messages = Pick<
  ChatRequest,
  "messages" | "tools" | "toolChoice" | "schema" | "enableThinking" | "templateArguments"
>

/** An assistant's message at the end is the beginning of the answer, as llama-server takes it. */
const render = (
  template: ChatTemplate,
  request: Messages,
  { enableThinking, templateArguments }: ServingOptions,
): string => {
  const last = request.messages.at(-1)
  const isBegun = last?.role === "assistant" && (last.tool_calls ?? []).length === 0
  const prompt = template.render({
    messages: isBegun ? request.messages.slice(0, -1) : request.messages,
    tools: request.tools,
    toolChoice: request.toolChoice,
    // JSON can be held to its schema from its first character alone.
    enableThinking: request.enableThinking ?? enableThinking ?? request.schema === undefined,
    kwargs: { ...templateArguments, ...request.templateArguments },
  })
  return isBegun ? prompt + contentText(last.content) : prompt
}

export const chatPrompt = (request: Messages): Effect.Effect<string, ApiError, Serving> =>
  Effect.gen(function* () {
    const { model, options } = yield* Serving
    const { template } = yield* model
    if (request.messages.length === 0) {
      return yield* invalidRequest("There is no message to answer.", "messages")
    }
    const own = yield* template
    return yield* Effect.try({
      try: () => render(own, request, options),
      catch: (error) =>
        invalidRequest(error instanceof Error ? error.message : String(error), "messages"),
    })
  })
