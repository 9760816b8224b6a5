/** Anthropic's endpoints: `POST /v1/messages`, and how many tokens one would be. */

import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import type { OutputDelta } from "@ggml-rpc/chat"
import type { GenerateStats } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type Answer, answerChat, type PreparedChat, prepareChat } from "../chat/answers.ts"
import { newId } from "../ids.ts"
import { Serving } from "../Serving.ts"
import { namedEvent, streamed } from "../streamed.ts"
import { anthropicError } from "./errors.ts"
import { chatOf, MessagesRequest } from "./messages.ts"

const Usage = Schema.Struct({
  input_tokens: Schema.Int,
  cache_read_input_tokens: Schema.Int,
  output_tokens: Schema.Int,
})

const Content = Schema.Union(
  Schema.Struct({
    type: Schema.Literal("thinking"),
    thinking: Schema.String,
    signature: Schema.String,
  }),
  Schema.Struct({ type: Schema.Literal("text"), text: Schema.String }),
  Schema.Struct({
    type: Schema.Literal("tool_use"),
    id: Schema.String,
    name: Schema.String,
    input: Schema.Unknown,
  }),
)

const StopReason = Schema.Literal("end_turn", "max_tokens", "stop_sequence", "tool_use")

const AnthropicAnswer = Schema.Struct({
  id: Schema.String,
  type: Schema.Literal("message"),
  role: Schema.Literal("assistant"),
  model: Schema.String,
  content: Schema.Array(Content),
  stop_reason: Schema.NullOr(StopReason),
  stop_sequence: Schema.NullOr(Schema.String),
  usage: Usage,
}).annotations({ identifier: "AnthropicAnswer" })

export class AnthropicApi extends HttpApiGroup.make("anthropic", { topLevel: true })
  .add(
    HttpApiEndpoint.post("messages", "/v1/messages")
      .setPayload(MessagesRequest)
      .addSuccess(AnthropicAnswer),
  )
  .add(
    HttpApiEndpoint.post("countTokens", "/v1/messages/count_tokens")
      .setPayload(MessagesRequest)
      .addSuccess(Schema.Struct({ input_tokens: Schema.Int })),
  ) {}

const stopReason = ({ stats, toolCalls }: Answer): typeof StopReason.Type => {
  if (stats.stopReason === "stop-text") return "stop_sequence"
  if (stats.stopReason !== "end-of-text") return "max_tokens"
  return toolCalls.length > 0 ? "tool_use" : "end_turn"
}

/** What was in the cache is not counted again. */
const usageOf = ({ promptTokenCount, cachedTokenCount, tokenCount }: GenerateStats) => ({
  input_tokens: promptTokenCount - cachedTokenCount,
  cache_read_input_tokens: cachedTokenCount,
  output_tokens: tokenCount,
})

/** The arguments; a call that the end of the text cut off has none. */
const inputOf = (args: string): unknown => {
  try {
    return JSON.parse(args)
  } catch {
    return {}
  }
}

/** Thoughts have a signature, which is nobody's here. */
const contentOf = ({ reasoning, content, toolCalls }: Answer): Array<typeof Content.Type> => [
  ...(reasoning === "" ? [] : [{ type: "thinking" as const, thinking: reasoning, signature: "" }]),
  ...(content === "" ? [] : [{ type: "text" as const, text: content }]),
  ...toolCalls.map(({ id, name, arguments: args }) => ({
    type: "tool_use" as const,
    id,
    name,
    input: inputOf(args),
  })),
]

type BlockType = "thinking" | "text" | "tool_use"

/** Opens and closes the blocks of a streamed answer, one after the other. */
class Blocks {
  readonly #write: (text: string) => void
  #index = -1
  #open: BlockType | undefined

  constructor(write: (text: string) => void) {
    this.#write = write
  }

  add(delta: OutputDelta): void {
    switch (delta.type) {
      case "reasoning":
        this.#enter("thinking", { type: "thinking", thinking: "", signature: "" })
        this.#delta({ type: "thinking_delta", thinking: delta.text })
        break
      case "content":
        this.#enter("text", { type: "text", text: "" })
        this.#delta({ type: "text_delta", text: delta.text })
        break
      case "toolCall":
        this.close()
        this.#enter("tool_use", { type: "tool_use", id: delta.id, name: delta.name, input: {} })
        break
      case "toolArguments":
        this.#delta({ type: "input_json_delta", partial_json: delta.text })
    }
  }

  close(): void {
    if (this.#open === undefined) return
    if (this.#open === "thinking") this.#delta({ type: "signature_delta", signature: "" })
    this.#event("content_block_stop", { index: this.#index })
    this.#open = undefined
  }

  #enter(type: BlockType, content_block: object): void {
    if (this.#open === type) return
    this.close()
    this.#index += 1
    this.#open = type
    this.#event("content_block_start", { index: this.#index, content_block })
  }

  #delta(delta: object): void {
    this.#event("content_block_delta", { index: this.#index, delta })
  }

  #event(type: string, data: object): void {
    this.#write(namedEvent(type, { type, ...data }))
  }
}

const stream = (prepared: PreparedChat, model: string) =>
  streamed(
    "events",
    (write) =>
      Effect.gen(function* () {
        const blocks = new Blocks(write)
        let isBegun = false
        const begin = (): void => {
          if (isBegun) return
          isBegun = true
          const message = {
            ...{ id: newId("msg_"), type: "message", role: "assistant", model, content: [] },
            ...{ stop_reason: null, stop_sequence: null },
            usage: { input_tokens: prepared.runs[0]!.prompt.length, output_tokens: 0 },
          }
          write(namedEvent("message_start", { type: "message_start", message }))
        }
        const [answer] = yield* answerChat(prepared, (_, deltas) => {
          begin()
          for (const delta of deltas) blocks.add(delta)
        })
        begin()
        blocks.close()
        const delta = {
          stop_reason: stopReason(answer!),
          stop_sequence: answer!.stats.stopText ?? null,
        }
        const end = { type: "message_delta", delta, usage: usageOf(answer!.stats) }
        write(namedEvent("message_delta", end))
        write(namedEvent("message_stop", { type: "message_stop" }))
      }),
    (error) => namedEvent("error", anthropicError(error)),
  )

interface Request {
  readonly payload: MessagesRequest
}

export const handleMessages = ({ payload }: Request) =>
  Effect.gen(function* () {
    const { name } = yield* (yield* Serving).model
    const prepared = yield* prepareChat(yield* chatOf(payload))
    if (payload.stream === true) return yield* stream(prepared, name)
    const [answer] = yield* answerChat(prepared)
    return {
      id: newId("msg_"),
      type: "message" as const,
      role: "assistant" as const,
      model: name,
      content: contentOf(answer!),
      stop_reason: stopReason(answer!),
      stop_sequence: answer!.stats.stopText ?? null,
      usage: usageOf(answer!.stats),
    }
  })

export const handleCountTokens = ({ payload }: Request) =>
  Effect.gen(function* () {
    const { runs } = yield* prepareChat(yield* chatOf(payload))
    return { input_tokens: runs[0]!.prompt.length }
  })
