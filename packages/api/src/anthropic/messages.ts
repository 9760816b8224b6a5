/** Requests of Anthropic's Messages API. */
import type { ChatMessage, Tool, ToolChoice } from "@ggml-rpc/chat"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { ApiError } from "../ApiError.ts"
import type { ChatRequest } from "../chat/ChatRequest.ts"
import { JsonObject, optional } from "../fields.ts"
import { Serving } from "../Serving.ts"
import { samplingFields, samplingOf } from "../sampling.ts"

const ResultPart = Schema.Struct({ type: Schema.String, text: optional(Schema.String) })

/** A block of any kind; what each has is optional here, and one that cannot be read is told later. */
const Block = Schema.Struct({
  type: Schema.String,
  text: optional(Schema.String),
  thinking: optional(Schema.String),
  id: optional(Schema.String),
  name: optional(Schema.String),
  input: optional(JsonObject),
  tool_use_id: optional(Schema.String),
  content: optional(Schema.Union(Schema.String, Schema.Array(ResultPart))),
}).annotations({ identifier: "AnthropicBlock" })
type Block = typeof Block.Type

const Message = Schema.Struct({
  role: Schema.Literal("user", "assistant", "system"),
  content: Schema.Union(Schema.String, Schema.Array(Block)),
}).annotations({ identifier: "AnthropicMessage" })
type Message = typeof Message.Type

const AnthropicTool = Schema.Struct({
  name: Schema.String,
  description: optional(Schema.String),
  input_schema: optional(JsonObject),
}).annotations({ identifier: "AnthropicTool" })

const AnthropicToolChoice = Schema.Struct({
  type: Schema.Literal("auto", "any", "tool", "none"),
  name: optional(Schema.String),
  disable_parallel_tool_use: optional(Schema.Boolean),
}).annotations({ identifier: "AnthropicToolChoice" })

export const MessagesRequest = Schema.Struct({
  ...samplingFields,
  messages: Schema.Array(Message),
  model: optional(Schema.String),
  system: optional(Schema.Union(Schema.String, Schema.Array(Block))),
  tools: optional(Schema.Array(AnthropicTool)),
  tool_choice: optional(AnthropicToolChoice),
  stop_sequences: optional(Schema.Array(Schema.String)),
  thinking: optional(Schema.Struct({ type: Schema.String })),
  stream: optional(Schema.Boolean),
}).annotations({ identifier: "AnthropicMessagesRequest" })
export type MessagesRequest = typeof MessagesRequest.Type

/** As a part of OpenAI's messages: text, or what the chat says cannot be read. */
const partOf = ({ type, text }: { readonly type: string; readonly text?: string }) =>
  text === undefined ? { type } : { type, text }

const toolCallOf = ({ id, name = "", input = {} }: Block) => ({
  ...(id === undefined ? {} : { id }),
  type: "function" as const,
  function: { name, arguments: input },
})

const resultOf = ({ tool_use_id, content = "" }: Block): ChatMessage => ({
  role: "tool",
  tool_call_id: tool_use_id,
  content: typeof content === "string" ? content : content.map(partOf),
})

const otherTypes: ReadonlySet<string> = new Set([
  "tool_use",
  "tool_result",
  "thinking",
  "redacted_thinking",
])

/** Results of tools are messages of their own, before what the user says with them. */
const messagesOf = ({ role, content }: Message): ReadonlyArray<ChatMessage> => {
  if (typeof content === "string") return [{ role, content }]
  const ofType = (wanted: string): ReadonlyArray<Block> =>
    content.filter(({ type }) => type === wanted)
  const results = ofType("tool_result").map(resultOf)
  const parts = content.filter(({ type }) => !otherTypes.has(type)).map(partOf)
  const calls = ofType("tool_use").map(toolCallOf)
  const thoughts = ofType("thinking")
    .map(({ thinking = "" }) => thinking)
    .join("\n")
  if (parts.length === 0 && calls.length === 0) return results
  return [
    ...results,
    {
      role,
      content: parts,
      ...(calls.length === 0 ? {} : { tool_calls: calls }),
      ...(thoughts === "" ? {} : { reasoning_content: thoughts }),
    },
  ]
}

const systemOf = (system: MessagesRequest["system"]): ReadonlyArray<ChatMessage> =>
  system === undefined
    ? []
    : [{ role: "system", content: typeof system === "string" ? system : system.map(partOf) }]

const toolOf = ({ name, description, input_schema }: typeof AnthropicTool.Type): Tool => ({
  type: "function",
  function: {
    name,
    ...(description === undefined ? {} : { description }),
    ...(input_schema === undefined ? {} : { parameters: input_schema }),
  },
})

const choiceOf = (choice: typeof AnthropicToolChoice.Type | undefined): ToolChoice | undefined => {
  if (choice === undefined) return undefined
  const { type, name = "" } = choice
  if (type === "tool") return { type: "function", function: { name } }
  return type === "any" ? "required" : type
}

export const chatOf = (request: MessagesRequest): Effect.Effect<ChatRequest, ApiError, Serving> =>
  Effect.gen(function* () {
    const { options } = yield* Serving
    return {
      messages: [...systemOf(request.system), ...request.messages.flatMap(messagesOf)],
      tools: request.tools?.map(toolOf),
      toolChoice: choiceOf(request.tool_choice),
      parallelToolCalls: request.tool_choice?.disable_parallel_tool_use !== true,
      ...(request.thinking?.type === "disabled" ? { enableThinking: false } : {}),
      options: {
        ...(yield* samplingOf(request, options.defaults)),
        stop: request.stop_sequences ?? [],
      },
    }
  })
