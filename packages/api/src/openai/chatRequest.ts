/** Requests of `POST /v1/chat/completions`. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { ApiError } from "../ApiError.ts"
import type { ChatRequest } from "../chat/ChatRequest.ts"
import { AnswerCount, JsonObject, optional, StopTexts, stopTexts } from "../fields.ts"
import { Serving } from "../Serving.ts"
import { samplingFields, samplingOf } from "../sampling.ts"
import { Message, ResponseFormat, schemaOf, Tool, ToolChoice } from "./messages.ts"

export const StreamOptions = Schema.Struct({ include_usage: optional(Schema.Boolean) })

export const ChatCompletionRequest = Schema.Struct({
  ...samplingFields,
  messages: Schema.Array(Message),
  model: optional(Schema.String),
  max_completion_tokens: optional(Schema.Int),
  stream: optional(Schema.Boolean),
  stream_options: optional(StreamOptions),
  stop: optional(StopTexts),
  n: optional(AnswerCount),
  logprobs: optional(Schema.Boolean),
  top_logprobs: optional(Schema.NonNegativeInt),
  tools: optional(Schema.Array(Tool)),
  tool_choice: optional(ToolChoice),
  parallel_tool_calls: optional(Schema.Boolean),
  response_format: optional(ResponseFormat),
  reasoning_format: optional(Schema.Literal("none", "auto", "deepseek")),
  reasoning_effort: optional(Schema.String),
  chat_template_kwargs: optional(JsonObject),
}).annotations({ identifier: "OpenAiChatCompletionRequest" })
export type ChatCompletionRequest = typeof ChatCompletionRequest.Type

/** `enable_thinking` is llama-server's, an effort of `none` OpenAI's way to say so. */
const thinking = ({
  chat_template_kwargs: kwargs,
  reasoning_effort: effort,
}: ChatCompletionRequest): boolean | undefined =>
  typeof kwargs?.enable_thinking === "boolean"
    ? kwargs.enable_thinking
    : effort === "none"
      ? false
      : undefined

export const chatOf = (
  request: ChatCompletionRequest,
): Effect.Effect<ChatRequest, ApiError, Serving> =>
  Effect.gen(function* () {
    const { options } = yield* Serving
    const { max_completion_tokens, logprobs, top_logprobs, reasoning_effort } = request
    const sampling = yield* samplingOf(request, options.defaults)
    return {
      messages: request.messages,
      tools: request.tools,
      toolChoice: request.tool_choice,
      parallelToolCalls: request.parallel_tool_calls,
      schema: request.json_schema ?? schemaOf(request.response_format),
      enableThinking: thinking(request),
      reasoningFormat: request.reasoning_format,
      templateArguments: {
        ...(reasoning_effort === undefined ? {} : { reasoning_effort }),
        ...request.chat_template_kwargs,
      },
      count: request.n,
      options: {
        ...sampling,
        ...(max_completion_tokens === undefined ? {} : { maxTokens: max_completion_tokens }),
        stop: stopTexts(request.stop),
        ...(logprobs === true ? { topLogprobs: top_logprobs ?? 0 } : {}),
      },
    }
  })
