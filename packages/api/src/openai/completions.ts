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
  finish,
  finishAll,
  type Logprobs,
  runsOf,
  type TextRun,
  type Token,
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

/** The runs of a request, and what its answers have in common. */
interface Prepared {
  readonly runs: ReadonlyArray<TextRun>
  /** What stands before the text of a run: its prompt, where that is wanted. */
  readonly echoOf: (run: TextRun) => string
  readonly head: {
    readonly id: string
    readonly object: "text_completion"
    readonly created: number
    readonly model: string
  }
}

const prepare = (request: Completions) =>
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
    const echoes = request.echo === true ? yield* Effect.forEach(prompts, detokenize) : []
    return {
      runs,
      echoOf: ({ index }) => echoes[Math.floor(index / n)] ?? "",
      head: {
        id: newId("cmpl-"),
        object: "text_completion",
        created: nowSeconds(),
        model: name,
      },
    } satisfies Prepared
  })

const whole = ({ runs, echoOf, head }: Prepared) =>
  Effect.map(finishAll(runs), (texts) => ({
    ...head,
    choices: texts.map(({ run, text, logprobs, stats }) => ({
      index: run.index,
      text: echoOf(run) + text,
      logprobs: logprobsOf(logprobs, echoOf(run).length),
      finish_reason: finishReason(stats),
    })),
    usage: usageOf(texts),
    ...(texts.length === 1 ? { timings: timings(texts[0]!.stats) } : {}),
  }))

/** One run in chunks. */
const streamRun = ({ echoOf, head }: Prepared, run: TextRun, write: (text: string) => void) => {
  const chunk = (text: string, more: object = {}): void => {
    const choice = { index: run.index, text, logprobs: null, finish_reason: null, ...more }
    write(dataEvent({ ...head, choices: [choice] }))
  }
  const echo = echoOf(run)
  if (echo !== "") chunk(echo)
  let offset = echo.length
  const onToken = ({ text, logprobs }: Token): void => {
    if (logprobs !== undefined) chunk(text, { logprobs: logprobsOf([logprobs], offset) })
    else if (text !== "") chunk(text)
    offset += text.length
  }
  return Effect.tap(finish(run, onToken), ({ stats }) =>
    chunk("", { finish_reason: finishReason(stats) }),
  )
}

const stream = (prepared: Prepared, includesUsage: boolean) =>
  streamed(
    "events",
    (write) =>
      Effect.map(
        finishAll(prepared.runs, (run) => streamRun(prepared, run, write)),
        (texts) => {
          if (includesUsage) {
            write(dataEvent({ ...prepared.head, choices: [], usage: usageOf(texts) }))
          }
          write("data: [DONE]\n\n")
        },
      ),
    (error) => dataEvent(openAiError(error)),
  )

export const handleCompletions = ({ payload }: { readonly payload: Completions }) =>
  Effect.gen(function* () {
    const prepared = yield* prepare(payload)
    if (payload.stream !== true) return yield* whole(prepared)
    return yield* stream(prepared, payload.stream_options?.include_usage === true)
  })
