/** `POST /v1/completions`: OpenAI's older endpoint, without a chat. */

import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import type { GenerateStats } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { notSupported } from "../ApiError.ts"
import { AnswerCount, optional, Prompts, StopTexts, stopTexts } from "../fields.ts"
import { newId, nowSeconds } from "../ids.ts"
import { detokenize } from "../llama/tokens.ts"
import { tokenizePrompts } from "../prompts.ts"
import { Serving } from "../Serving.ts"
import { samplingFields, samplingOf } from "../sampling.ts"
import { dataEvent, streamed } from "../streamed.ts"
import {
  type FinishedText,
  finish,
  finishAll,
  type Logprobs,
  runsOf,
  timings,
} from "../textRuns.ts"
import { StreamOptions } from "./chatRequest.ts"
import { openAiError } from "./errors.ts"
import { Usage, usageOf } from "./usage.ts"

const Completions = Schema.Struct({
  ...samplingFields,
  prompt: Prompts,
  model: optional(Schema.String),
  stream: optional(Schema.Boolean),
  stream_options: optional(StreamOptions),
  stop: optional(StopTexts),
  n: optional(AnswerCount),
  best_of: optional(Schema.Int),
  echo: optional(Schema.Boolean),
  suffix: optional(Schema.String),
  logprobs: optional(Schema.NonNegativeInt),
}).annotations({ identifier: "OpenAiCompletionRequest" })
type Completions = typeof Completions.Type

const FinishReason = Schema.Literal("stop", "length")

const CompletionLogprobs = Schema.Struct({
  tokens: Schema.Array(Schema.String),
  token_logprobs: Schema.Array(Schema.Number),
  top_logprobs: Schema.Array(Schema.Record({ key: Schema.String, value: Schema.Number })),
  text_offset: Schema.Array(Schema.Int),
})

const Completion = Schema.Struct({
  id: Schema.String,
  object: Schema.Literal("text_completion"),
  created: Schema.Int,
  model: Schema.String,
  choices: Schema.Array(
    Schema.Struct({
      index: Schema.Int,
      text: Schema.String,
      logprobs: Schema.NullOr(CompletionLogprobs),
      finish_reason: Schema.NullOr(FinishReason),
    }),
  ),
  usage: Schema.optional(Usage),
  timings: Schema.optional(Schema.Unknown),
}).annotations({ identifier: "OpenAiCompletion" })

export const completionsEndpoint = HttpApiEndpoint.post("completions", "/v1/completions")
  .setPayload(Completions)
  .addSuccess(Completion)

/** The text ended by itself, or by a text to stop at, or had no more room. */
export const finishReason = ({ stopReason }: GenerateStats): typeof FinishReason.Type =>
  stopReason === "end-of-text" || stopReason === "stop-text" ? "stop" : "length"

/** `offset` is that of the first token in the text. */
const logprobsOf = (
  logprobs: ReadonlyArray<Logprobs>,
  offset: number,
): typeof CompletionLogprobs.Type | null => {
  if (logprobs.length === 0) return null
  const tokens = logprobs.map(({ chosen }) => chosen.text)
  let end = offset
  return {
    tokens,
    token_logprobs: logprobs.map(({ chosen }) => chosen.logprob),
    top_logprobs: logprobs.map(({ top }) =>
      Object.fromEntries(top.map(({ text, logprob }) => [text, logprob])),
    ),
    text_offset: tokens.map((text) => {
      const start = end
      end += text.length
      return start
    }),
  }
}

export const handleCompletions = ({ payload: request }: { readonly payload: Completions }) =>
  Effect.gen(function* () {
    if (request.suffix !== undefined && request.suffix !== "") {
      return yield* notSupported(
        "'suffix' is not supported here: use /infill, with a model that has its tokens.",
      )
    }
    const serving = yield* Serving
    const { name } = yield* serving.model
    const prompts = yield* tokenizePrompts(request.prompt)
    const { logprobs, n = 1 } = request
    const runs = runsOf(prompts, n, {
      // OpenAI's default, 16 tokens, is nobody's wish; llama-server has none either.
      ...(yield* samplingOf(request, serving.options.defaults)),
      stop: stopTexts(request.stop),
      ...(logprobs === undefined ? {} : { topLogprobs: logprobs }),
    })
    const echoes =
      request.echo === true ? yield* Effect.forEach(prompts, detokenize) : prompts.map(() => "")
    const echoOf = (index: number): string => echoes[Math.floor(index / n)]!
    const head = {
      id: newId("cmpl-"),
      object: "text_completion" as const,
      created: nowSeconds(),
      model: name,
    }
    if (request.stream !== true) {
      const texts = yield* finishAll(runs)
      return {
        ...head,
        choices: texts.map(({ run: { index }, text, logprobs, stats }) => ({
          index,
          text: echoOf(index) + text,
          logprobs: logprobsOf(logprobs, echoOf(index).length),
          finish_reason: finishReason(stats),
        })),
        usage: usageOf(texts),
        ...(texts.length === 1 ? { timings: timings(texts[0]!.stats) } : {}),
      }
    }
    return yield* streamed(
      "events",
      (write) =>
        Effect.gen(function* () {
          const chunk = (index: number, text: string, end: FinishedText | undefined, more = {}) =>
            write(
              dataEvent({
                ...head,
                choices: [
                  {
                    index,
                    text,
                    logprobs: null,
                    finish_reason: end === undefined ? null : finishReason(end.stats),
                    ...more,
                  },
                ],
              }),
            )
          const texts = yield* finishAll(runs, (run) => {
            let offset = echoOf(run.index).length
            if (offset > 0) chunk(run.index, echoOf(run.index), undefined)
            return Effect.tap(
              finish(run, ({ text, logprobs }) => {
                const more =
                  logprobs === undefined ? {} : { logprobs: logprobsOf([logprobs], offset) }
                offset += text.length
                if (text !== "" || logprobs !== undefined) chunk(run.index, text, undefined, more)
              }),
              (done) => chunk(run.index, "", done),
            )
          })
          if (request.stream_options?.include_usage === true) {
            write(dataEvent({ ...head, choices: [], usage: usageOf(texts) }))
          }
          write("data: [DONE]\n\n")
        }),
      (error) => dataEvent(openAiError(error)),
    )
  })
