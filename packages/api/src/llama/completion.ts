/** `POST /completion`: texts that go on, by llama-server's own fields. */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { AnswerCount, JsonObject, optional, Prompts, StopTexts, stopTexts } from "../fields.ts"
import { tokenizePrompts } from "../prompts.ts"
import { Serving } from "../Serving.ts"
import { generationSettings, samplingFields, samplingOf } from "../sampling.ts"
import { dataEvent, streamed } from "../streamed.ts"
import {
  type FinishedText,
  finish,
  finishAll,
  runsOf,
  type TextRun,
  type Token,
  timings,
} from "../textRuns.ts"
import { llamaError } from "./errors.ts"
import { tokenProbability } from "./logprobs.ts"
import { detokenize } from "./tokens.ts"

/** Fields of every request for texts. */
export const completionFields = {
  ...samplingFields,
  stream: optional(Schema.Boolean),
  stop: optional(StopTexts),
  n_probs: optional(Schema.NonNegativeInt),
  n_cmpl: optional(AnswerCount),
  n: optional(AnswerCount),
  n_keep: optional(Schema.Int),
  return_tokens: optional(Schema.Boolean),
  timings_per_token: optional(Schema.Boolean),
  response_fields: optional(Schema.Array(Schema.String)),
}

const CompletionRequest = Schema.Struct({ prompt: Prompts, ...completionFields }).annotations({
  identifier: "LlamaCompletionRequest",
})
type CompletionRequest = typeof CompletionRequest.Type

const LlamaCompletion = Schema.Struct({
  index: Schema.Int,
  content: Schema.String,
  tokens: Schema.Array(Schema.Int),
  id_slot: Schema.Int,
  stop: Schema.Boolean,
  model: Schema.String,
  tokens_predicted: Schema.Int,
  tokens_evaluated: Schema.Int,
  tokens_cached: Schema.Int,
  generation_settings: JsonObject,
  prompt: Schema.String,
  has_new_line: Schema.Boolean,
  truncated: Schema.Boolean,
  stop_type: Schema.Literal("eos", "limit", "word"),
  stopping_word: Schema.String,
  timings: JsonObject,
  completion_probabilities: Schema.optional(Schema.Array(Schema.Unknown)),
}).annotations({ identifier: "LlamaCompletion" })

/** An object of its fields, or some of them; an array of these for several texts. */
export const CompletionAnswer = Schema.Union(
  LlamaCompletion,
  JsonObject,
  Schema.Array(Schema.Unknown),
)

export const completionEndpoint = HttpApiEndpoint.post("completion", "/completion")
  .setPayload(CompletionRequest)
  .addSuccess(CompletionAnswer)

const stopTypes = {
  "end-of-text": "eos",
  "stop-text": "word",
  "token-limit": "limit",
  "context-full": "limit",
  cancelled: "limit",
} as const

const finished = (
  { run, text, tokens, logprobs, stats }: FinishedText,
  request: Described,
  prompt: string,
  model: string,
): typeof LlamaCompletion.Type => ({
  index: run.index,
  content: request.stream === true ? "" : text,
  tokens: request.return_tokens === true && request.stream !== true ? tokens : [],
  id_slot: stats.slot,
  stop: true,
  model,
  tokens_predicted: stats.tokenCount,
  tokens_evaluated: stats.promptTokenCount,
  tokens_cached: stats.promptTokenCount + stats.tokenCount,
  generation_settings: { ...generationSettings(run.options), stream: request.stream ?? false },
  prompt,
  has_new_line: text.includes("\n"),
  truncated: stats.stopReason === "context-full",
  stop_type: stopTypes[stats.stopReason],
  stopping_word: stats.stopText ?? "",
  timings: timings(stats),
  ...(request.stream === true || logprobs.length === 0
    ? {}
    : { completion_probabilities: logprobs.map(tokenProbability) }),
})

/** Only these fields; one with a slash comes from inside another. */
const select = (answer: object, fields: ReadonlyArray<string> | undefined): object =>
  fields === undefined || fields.length === 0
    ? answer
    : Object.fromEntries(
        fields.flatMap((path) => {
          const names = path.split("/")
          const value = names.reduce<unknown>(
            (inside, name) => (inside as Record<string, unknown> | undefined)?.[name],
            answer,
          )
          return value === undefined ? [] : [[names[names.length - 1]!, value]]
        }),
      )

const piece = (run: TextRun, { id, text, logprobs }: Token, tokenCount: number): object => ({
  index: run.index,
  content: text,
  tokens: id < 0 ? [] : [id],
  stop: false,
  tokens_predicted: tokenCount,
  tokens_evaluated: run.prompt.length,
  ...(logprobs === undefined ? {} : { completion_probabilities: [tokenProbability(logprobs)] }),
})

type Described = Omit<CompletionRequest, "prompt">

const optionsOf = (request: Described) =>
  Effect.gen(function* () {
    const { options } = yield* Serving
    const { n_probs = 0, n_keep } = request
    return {
      ...(yield* samplingOf(request, options.defaults)),
      stop: stopTexts(request.stop),
      ...(n_probs === 0 ? {} : { topLogprobs: n_probs }),
      ...(n_keep === undefined ? {} : { keepTokens: n_keep }),
    }
  })

const stream = (runs: ReadonlyArray<TextRun>, answerOf: (done: FinishedText) => object) =>
  streamed(
    "events",
    (write) =>
      Effect.asVoid(
        finishAll(runs, (run) => {
          let tokenCount = 0
          const onToken = (token: Token): void => {
            tokenCount += token.id < 0 ? 0 : 1
            write(dataEvent(piece(run, token, tokenCount)))
          }
          return Effect.tap(finish(run, onToken), (done) => write(dataEvent(answerOf(done))))
        }),
      ),
    (error) => dataEvent(llamaError(error)),
  )

/** Runs of a request whose prompts are tokens already. */
export const complete = (request: Described, prompts: ReadonlyArray<ReadonlyArray<number>>) =>
  Effect.gen(function* () {
    const { name } = yield* (yield* Serving).model
    const count = request.n_cmpl ?? request.n ?? 1
    const runs = runsOf(prompts, count, yield* optionsOf(request))
    const texts = yield* Effect.forEach(prompts, detokenize)
    const answerOf = (done: FinishedText): object => {
      const prompt = texts[Math.floor(done.run.index / count)]!
      return select(finished(done, request, prompt, name), request.response_fields)
    }
    if (request.stream === true) return yield* stream(runs, answerOf)
    const answers = (yield* finishAll(runs)).map(answerOf)
    return answers.length === 1 ? (answers[0] as typeof JsonObject.Type) : answers
  })

export const handleCompletion = ({ payload }: { readonly payload: CompletionRequest }) =>
  Effect.flatMap(tokenizePrompts(payload.prompt), (prompts) => complete(payload, prompts))
