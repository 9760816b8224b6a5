/** `POST /v1/responses`. */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type Answer, answerChat, type PreparedChat, prepareChat } from "../chat/answers.ts"
import { JsonObject } from "../fields.ts"
import { newId, nowSeconds } from "../ids.ts"
import { Serving } from "../Serving.ts"
import { namedEvent, streamed } from "../streamed.ts"
import { openAiError } from "./errors.ts"
import { ResponseItems } from "./responseItems.ts"
import { chatOf, ResponsesRequest } from "./responsesRequest.ts"

const OpenAiResponse = Schema.Struct({
  id: Schema.String,
  object: Schema.Literal("response"),
  created_at: Schema.Int,
  model: Schema.String,
  status: Schema.Literal("in_progress", "completed", "incomplete"),
  incomplete_details: Schema.NullOr(Schema.Struct({ reason: Schema.String })),
  error: Schema.Null,
  output: Schema.Array(JsonObject),
  usage: Schema.NullOr(
    Schema.Struct({
      input_tokens: Schema.Int,
      input_tokens_details: Schema.Struct({ cached_tokens: Schema.Int }),
      output_tokens: Schema.Int,
      output_tokens_details: Schema.Struct({ reasoning_tokens: Schema.Int }),
      total_tokens: Schema.Int,
    }),
  ),
  instructions: Schema.NullOr(Schema.String),
  tools: Schema.Array(JsonObject),
  tool_choice: Schema.Unknown,
  parallel_tool_calls: Schema.Boolean,
}).annotations({ identifier: "OpenAiResponse" })
type OpenAiResponse = typeof OpenAiResponse.Type

export const responsesEndpoint = HttpApiEndpoint.post("responses", "/v1/responses")
  .setPayload(ResponsesRequest)
  .addSuccess(OpenAiResponse)

const begun = (request: ResponsesRequest, model: string): OpenAiResponse => ({
  id: newId("resp_"),
  object: "response",
  created_at: nowSeconds(),
  model,
  status: "in_progress",
  incomplete_details: null,
  error: null,
  output: [],
  usage: null,
  instructions: request.instructions ?? null,
  tools: request.tools ?? [],
  tool_choice: request.tool_choice ?? "auto",
  parallel_tool_calls: request.parallel_tool_calls ?? true,
})

const finished = (
  response: OpenAiResponse,
  output: ReadonlyArray<typeof JsonObject.Type>,
  { stats }: Answer,
): OpenAiResponse => {
  const { stopReason, promptTokenCount, cachedTokenCount, tokenCount } = stats
  const isWhole = stopReason === "end-of-text" || stopReason === "stop-text"
  return {
    ...response,
    status: isWhole ? "completed" : "incomplete",
    incomplete_details: isWhole ? null : { reason: "max_output_tokens" },
    output,
    usage: {
      input_tokens: promptTokenCount,
      input_tokens_details: { cached_tokens: cachedTokenCount },
      output_tokens: tokenCount,
      output_tokens_details: { reasoning_tokens: 0 },
      total_tokens: promptTokenCount + tokenCount,
    },
  }
}

const stream = (prepared: PreparedChat, response: OpenAiResponse) =>
  streamed(
    "events",
    (write) =>
      Effect.gen(function* () {
        let sequence_number = 0
        const event = (type: string, data: object): void => {
          write(namedEvent(type, { type, sequence_number, ...data }))
          sequence_number += 1
        }
        const items = new ResponseItems(event)
        const begin = (): void => {
          if (sequence_number > 0) return
          event("response.created", { response })
          event("response.in_progress", { response })
        }
        const [answer] = yield* answerChat(prepared, (_, deltas) => {
          begin()
          for (const delta of deltas) items.add(delta)
        })
        begin()
        const whole = finished(response, items.finish(), answer!)
        event(`response.${whole.status}`, { response: whole })
      }),
    (failure) => {
      const { code, message, param } = openAiError(failure).error
      return namedEvent("error", { type: "error", sequence_number: 0, code, message, param })
    },
  )

export const handleResponses = ({ payload }: { readonly payload: ResponsesRequest }) =>
  Effect.gen(function* () {
    const { name } = yield* (yield* Serving).model
    const prepared = yield* prepareChat(yield* chatOf(payload))
    const response = begun(payload, name)
    if (payload.stream === true) return yield* stream(prepared, response)
    const items = new ResponseItems(() => {})
    const [answer] = yield* answerChat(prepared, (_, deltas) => {
      for (const delta of deltas) items.add(delta)
    })
    return finished(response, items.finish(), answer!)
  })
