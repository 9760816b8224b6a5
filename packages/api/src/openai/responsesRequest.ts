/** Requests of `POST /v1/responses`. */
import type { ChatMessage, Tool, ToolChoice } from "@ggml-rpc/chat"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type ApiError, notSupported } from "../ApiError.ts"
import type { ChatRequest } from "../chat/ChatRequest.ts"
import { JsonObject, optional } from "../fields.ts"
import { Serving } from "../Serving.ts"
import { samplingFields, samplingOf } from "../sampling.ts"

const Part = Schema.Struct({ type: Schema.String, text: optional(Schema.String) })
type Part = typeof Part.Type

/** A message, a call of a tool, its output, or thoughts: `type` says which. */
const Item = Schema.Struct({
  type: optional(Schema.String),
  role: optional(Schema.String),
  content: optional(Schema.Union(Schema.String, Schema.Array(Part))),
  call_id: optional(Schema.String),
  name: optional(Schema.String),
  arguments: optional(Schema.String),
  output: optional(Schema.Union(Schema.String, Schema.Array(Part))),
}).annotations({ identifier: "OpenAiResponseItem" })
type Item = typeof Item.Type

const ResponseTool = Schema.Struct({
  type: Schema.String,
  name: optional(Schema.String),
  description: optional(Schema.String),
  parameters: optional(JsonObject),
}).annotations({ identifier: "OpenAiResponseTool" })

const ResponseToolChoice = Schema.Union(
  Schema.Literal("auto", "none", "required"),
  Schema.Struct({ type: Schema.Literal("function"), name: Schema.String }),
)

const Format = Schema.Struct({
  type: Schema.Literal("text", "json_object", "json_schema"),
  schema: optional(JsonObject),
})

export const ResponsesRequest = Schema.Struct({
  ...samplingFields,
  input: Schema.Union(Schema.String, Schema.Array(Item)),
  model: optional(Schema.String),
  instructions: optional(Schema.String),
  max_output_tokens: optional(Schema.Int),
  tools: optional(Schema.Array(ResponseTool)),
  tool_choice: optional(ResponseToolChoice),
  parallel_tool_calls: optional(Schema.Boolean),
  text: optional(Schema.Struct({ format: optional(Format) })),
  reasoning: optional(Schema.Struct({ effort: optional(Schema.String) })),
  stream: optional(Schema.Boolean),
  previous_response_id: optional(Schema.String),
}).annotations({ identifier: "OpenAiResponsesRequest" })
export type ResponsesRequest = typeof ResponsesRequest.Type

const textTypes: ReadonlySet<string> = new Set(["input_text", "output_text", "reasoning_text"])

const partOf = ({ type, text }: Part) => ({
  type: textTypes.has(type) ? "text" : type,
  ...(text === undefined ? {} : { text }),
})

const contentOf = (content: Item["content"] = ""): string | ReadonlyArray<Part> =>
  typeof content === "string" ? content : content.map(partOf)

const messageOf = (item: Item): ChatMessage => {
  switch (item.type ?? "message") {
    case "function_call": {
      const { call_id = "", name = "", arguments: args = "{}" } = item
      const call = { id: call_id, type: "function" as const, function: { name, arguments: args } }
      return { role: "assistant", tool_calls: [call] }
    }
    case "function_call_output":
      return { role: "tool", tool_call_id: item.call_id, content: contentOf(item.output) }
    case "reasoning": {
      const parts = typeof item.content === "string" ? [] : (item.content ?? [])
      return {
        role: "assistant",
        reasoning_content: parts.map(({ text = "" }) => text).join("\n"),
      }
    }
    default:
      return { role: item.role ?? "user", content: contentOf(item.content) }
  }
}

/** Thoughts, text and calls of one answer are items of their own, and one message to a model. */
const merged = (messages: ReadonlyArray<ChatMessage>): ReadonlyArray<ChatMessage> => {
  const all: Array<ChatMessage> = []
  for (const message of messages) {
    const last = all.at(-1)
    const isMore = last?.role === "assistant" && message.role === "assistant"
    if (!isMore || (last.content !== undefined && message.content !== undefined)) {
      all.push(message)
      continue
    }
    const calls = [...(last.tool_calls ?? []), ...(message.tool_calls ?? [])]
    all[all.length - 1] = {
      ...last,
      ...message,
      ...(calls.length === 0 ? {} : { tool_calls: calls }),
    }
  }
  return all
}

/** Thoughts that nothing followed. */
const withContent = (message: ChatMessage): ChatMessage =>
  message.content === undefined && message.tool_calls === undefined
    ? { ...message, content: "" }
    : message

const messagesOf = ({ input, instructions }: ResponsesRequest): ReadonlyArray<ChatMessage> => [
  ...(instructions === undefined ? [] : [{ role: "system", content: instructions }]),
  ...(typeof input === "string"
    ? [{ role: "user", content: input }]
    : merged(input.map(messageOf)).map(withContent)),
]

const toolOf = (tool: typeof ResponseTool.Type): Effect.Effect<Tool, ApiError> => {
  const { type, name = "", description, parameters } = tool
  if (type !== "function") return Effect.fail(notSupported(`There is no tool '${type}' here.`))
  const about = {
    ...(description === undefined ? {} : { description }),
    ...(parameters === undefined ? {} : { parameters }),
  }
  return Effect.succeed({ type: "function", function: { name, ...about } })
}

const choiceOf = (choice: ResponsesRequest["tool_choice"]): ToolChoice | undefined =>
  typeof choice === "object" ? { type: "function", function: { name: choice.name } } : choice

export const chatOf = (request: ResponsesRequest): Effect.Effect<ChatRequest, ApiError, Serving> =>
  Effect.gen(function* () {
    if (request.previous_response_id !== undefined) {
      return yield* notSupported("Responses are not kept here: send the whole conversation.")
    }
    const { options } = yield* Serving
    const { max_output_tokens, text, reasoning } = request
    const format = text?.format
    return {
      messages: messagesOf(request),
      tools: yield* Effect.forEach(request.tools ?? [], toolOf),
      toolChoice: choiceOf(request.tool_choice),
      parallelToolCalls: request.parallel_tool_calls,
      schema:
        format === undefined || format.type === "text"
          ? undefined
          : (format.schema ?? { type: "object" }),
      ...(reasoning?.effort === "none" ? { enableThinking: false } : {}),
      options: {
        ...(yield* samplingOf(request, options.defaults)),
        ...(max_output_tokens === undefined ? {} : { maxTokens: max_output_tokens }),
      },
    }
  })
