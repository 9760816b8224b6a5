/** `POST /v1/chat/completions`. */

import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import type { OutputDelta } from "@ggml-rpc/chat"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import {
  type Answer,
  answerChat,
  type CalledTool,
  type PreparedChat,
  prepareChat,
} from "../chat/answers.ts"
import { newId, nowSeconds } from "../ids.ts"
import { tokenProbability } from "../llama/logprobs.ts"
import { Serving } from "../Serving.ts"
import { dataEvent, streamed } from "../streamed.ts"
import { type Logprobs, timings } from "../textRuns.ts"
import { ChatCompletionRequest, chatOf } from "./chatRequest.ts"
import { openAiError } from "./errors.ts"
import { Usage, usageOf } from "./usage.ts"

const FinishReason = Schema.Literal("stop", "length", "tool_calls")

const CalledFunction = Schema.Struct({
  id: Schema.String,
  type: Schema.Literal("function"),
  function: Schema.Struct({ name: Schema.String, arguments: Schema.String }),
})

const AnsweredMessage = Schema.Struct({
  role: Schema.Literal("assistant"),
  content: Schema.NullOr(Schema.String),
  reasoning_content: Schema.optional(Schema.String),
  tool_calls: Schema.optional(Schema.Array(CalledFunction)),
})

const ChatCompletion = Schema.Struct({
  id: Schema.String,
  object: Schema.Literal("chat.completion"),
  created: Schema.Int,
  model: Schema.String,
  choices: Schema.Array(
    Schema.Struct({
      index: Schema.Int,
      message: AnsweredMessage,
      logprobs: Schema.NullOr(Schema.Struct({ content: Schema.Array(Schema.Unknown) })),
      finish_reason: FinishReason,
    }),
  ),
  usage: Usage,
  timings: Schema.optional(Schema.Unknown),
}).annotations({ identifier: "OpenAiChatCompletion" })

export const chatCompletionsEndpoint = HttpApiEndpoint.post(
  "chatCompletions",
  "/v1/chat/completions",
)
  .setPayload(ChatCompletionRequest)
  .addSuccess(ChatCompletion)

const finishReason = ({ stats, toolCalls }: Answer): typeof FinishReason.Type => {
  if (stats.stopReason !== "end-of-text" && stats.stopReason !== "stop-text") return "length"
  return toolCalls.length > 0 ? "tool_calls" : "stop"
}

const calledFunction = ({ id, name, arguments: args }: CalledTool) => ({
  id,
  type: "function" as const,
  function: { name, arguments: args },
})

const messageOf = ({ content, reasoning, toolCalls }: Answer): typeof AnsweredMessage.Type => ({
  role: "assistant",
  content: content === "" && toolCalls.length > 0 ? null : content,
  ...(reasoning === "" ? {} : { reasoning_content: reasoning }),
  ...(toolCalls.length === 0 ? {} : { tool_calls: toolCalls.map(calledFunction) }),
})

const logprobsOf = (logprobs: ReadonlyArray<Logprobs>) =>
  logprobs.length === 0 ? null : { content: logprobs.map(tokenProbability) }

const choiceOf = (answer: Answer) => ({
  index: answer.run.index,
  message: messageOf(answer),
  logprobs: logprobsOf(answer.logprobs),
  finish_reason: finishReason(answer),
})

/** `delta` of a chunk. */
const deltaOf = (delta: OutputDelta): object => {
  switch (delta.type) {
    case "content":
      return { content: delta.text }
    case "reasoning":
      return { reasoning_content: delta.text }
    case "toolCall": {
      const { index, id, name } = delta
      const called = { name, arguments: "" }
      return { tool_calls: [{ index, id, type: "function", function: called }] }
    }
    case "toolArguments":
      return { tool_calls: [{ index: delta.index, function: { arguments: delta.text } }] }
  }
}

interface Head {
  readonly id: string
  readonly created: number
  readonly model: string
}

const stream = (prepared: PreparedChat, head: Head, includesUsage: boolean) =>
  streamed(
    "events",
    (write) => {
      const chunk = (choices: ReadonlyArray<object>, more: object = {}): void =>
        write(dataEvent({ ...head, object: "chat.completion.chunk", choices, ...more }))
      const begun = new Set<number>()
      // Of tokens whose text is held back, until there is a chunk for them.
      const untold = prepared.runs.map((): Array<Logprobs> => [])
      const choice = (index: number, delta: object, finish_reason: string | null = null) => {
        const logprobs = untold[index]!.splice(0)
        return {
          index,
          delta,
          finish_reason,
          ...(logprobs.length === 0 ? {} : { logprobs: logprobsOf(logprobs) }),
        }
      }
      return Effect.gen(function* () {
        const answers = yield* answerChat(prepared, ({ index }, deltas, token) => {
          if (!begun.has(index)) {
            begun.add(index)
            chunk([choice(index, { role: "assistant", content: null })])
          }
          if (token?.logprobs !== undefined) untold[index]!.push(token.logprobs)
          for (const delta of deltas) chunk([choice(index, deltaOf(delta))])
        })
        for (const answer of answers) {
          const last = choice(answer.run.index, {}, finishReason(answer))
          chunk([last], { timings: timings(answer.stats) })
        }
        if (includesUsage) chunk([], { usage: usageOf(answers) })
        write("data: [DONE]\n\n")
      })
    },
    (error) => dataEvent(openAiError(error)),
  )

export const handleChatCompletions = ({ payload }: { readonly payload: ChatCompletionRequest }) =>
  Effect.gen(function* () {
    const { name } = yield* (yield* Serving).model
    const prepared = yield* prepareChat(yield* chatOf(payload))
    const head = { id: newId("chatcmpl-"), created: nowSeconds(), model: name }
    if (payload.stream === true) {
      return yield* stream(prepared, head, payload.stream_options?.include_usage === true)
    }
    const answers = yield* answerChat(prepared)
    return {
      ...head,
      object: "chat.completion" as const,
      choices: answers.map(choiceOf),
      usage: usageOf(answers),
      ...(answers.length === 1 ? { timings: timings(answers[0]!.stats) } : {}),
    }
  })
