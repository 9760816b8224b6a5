/** Requests of Ollama's API. */
import type { ChatMessage } from "@ggml-rpc/chat"
import type { Cluster } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type ApiError, notSupported } from "../ApiError.ts"
import type { ChatRequest } from "../chat/ChatRequest.ts"
import { JsonObject, optional, StopTexts, stopTexts } from "../fields.ts"
import { Tool } from "../openai/messages.ts"
import { Serving } from "../Serving.ts"
import { samplingFields, samplingOf } from "../sampling.ts"

const Options = Schema.Struct({
  ...samplingFields,
  num_predict: optional(Schema.Int),
  num_keep: optional(Schema.Int),
  stop: optional(StopTexts),
}).annotations({ identifier: "OllamaOptions" })

const Message = Schema.Struct({
  role: Schema.String,
  content: optional(Schema.String),
  thinking: optional(Schema.String),
  images: optional(Schema.Array(Schema.String)),
  tool_name: optional(Schema.String),
  tool_calls: optional(
    Schema.Array(
      Schema.Struct({ function: Schema.Struct({ name: Schema.String, arguments: JsonObject }) }),
    ),
  ),
}).annotations({ identifier: "OllamaMessage" })

const commonFields = {
  model: optional(Schema.String),
  /** `json`, or a JSON schema. */
  format: optional(Schema.Union(Schema.Literal("", "json"), JsonObject)),
  options: optional(Options),
  stream: optional(Schema.Boolean),
  think: optional(Schema.Union(Schema.Boolean, Schema.String)),
  logprobs: optional(Schema.Boolean),
  top_logprobs: optional(Schema.NonNegativeInt),
}

export const OllamaChatRequest = Schema.Struct({
  ...commonFields,
  messages: optional(Schema.Array(Message)),
  tools: optional(Schema.Array(Tool)),
}).annotations({ identifier: "OllamaChatRequest" })
export type OllamaChatRequest = typeof OllamaChatRequest.Type

export const OllamaGenerateRequest = Schema.Struct({
  ...commonFields,
  prompt: optional(Schema.String),
  suffix: optional(Schema.String),
  system: optional(Schema.String),
  raw: optional(Schema.Boolean),
  images: optional(Schema.Array(Schema.String)),
}).annotations({ identifier: "OllamaGenerateRequest" })
export type OllamaGenerateRequest = typeof OllamaGenerateRequest.Type

type Common = OllamaChatRequest | OllamaGenerateRequest

export const optionsOf = (
  request: Common,
): Effect.Effect<Cluster.GenerateOptions, ApiError, Serving> =>
  Effect.gen(function* () {
    const { options: given = {}, logprobs, top_logprobs } = request
    const { options } = yield* Serving
    const { num_predict, num_keep, stop } = given
    return {
      ...(yield* samplingOf(given, options.defaults)),
      // -2 is to fill the context, which is where -1 ends too.
      ...(num_predict === undefined ? {} : { maxTokens: Math.max(-1, num_predict) }),
      ...(num_keep === undefined ? {} : { keepTokens: num_keep }),
      stop: stopTexts(stop),
      ...(logprobs === true ? { topLogprobs: top_logprobs ?? 0 } : {}),
    }
  })

/** A picture is a part that a chat refuses, and says which. */
const contentOf = (content = "", images: ReadonlyArray<string> = []): ChatMessage["content"] =>
  images.length === 0
    ? content
    : [{ type: "text", text: content }, ...images.map(() => ({ type: "image" }))]

const messageOf = ({
  role,
  content,
  thinking,
  images,
  tool_name,
  tool_calls,
}: typeof Message.Type): ChatMessage => ({
  role,
  content: contentOf(content, images),
  ...(thinking === undefined ? {} : { reasoning_content: thinking }),
  ...(tool_name === undefined ? {} : { name: tool_name }),
  ...(tool_calls === undefined
    ? {}
    : { tool_calls: tool_calls.map((call) => ({ type: "function" as const, ...call })) }),
})

/** A level, such as `high`, is the template's to understand. */
const shared = ({ format, think }: Common): Partial<ChatRequest> => ({
  schema: format === "json" ? { type: "object" } : format === "" ? undefined : format,
  ...(think === undefined ? {} : { enableThinking: think !== false }),
  ...(typeof think === "string" ? { templateArguments: { reasoning_effort: think } } : {}),
})

export const chatOf = (request: OllamaChatRequest): Effect.Effect<ChatRequest, ApiError, Serving> =>
  Effect.map(optionsOf(request), (options) => ({
    ...shared(request),
    messages: (request.messages ?? []).map(messageOf),
    tools: request.tools,
    options,
  }))

/** A prompt as the only message. */
export const promptChatOf = (
  request: OllamaGenerateRequest,
): Effect.Effect<ChatRequest, ApiError, Serving> =>
  Effect.gen(function* () {
    const { system, prompt, images, suffix } = request
    if (suffix !== undefined && suffix !== "") {
      return yield* notSupported("'suffix' is not supported here: use /infill.")
    }
    return {
      ...shared(request),
      messages: [
        ...(system === undefined || system === "" ? [] : [{ role: "system", content: system }]),
        { role: "user", content: contentOf(prompt, images) },
      ],
      options: yield* optionsOf(request),
    }
  })
