/** `POST /api/chat` and `/api/generate`. */
import type { OutputDelta } from "@ggml-rpc/chat"
import type { GenerateStats } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import type { ApiError } from "../ApiError.ts"
import { type Answer, answerChat, type PreparedChat, prepareChat } from "../chat/answers.ts"
import type { JsonObject } from "../fields.ts"
import { tokenize } from "../generate.ts"
import { tokenProbability } from "../llama/logprobs.ts"
import { Serving } from "../Serving.ts"
import { jsonLine, streamed } from "../streamed.ts"
import { finish, finishAll, type Logprobs, runsOf } from "../textRuns.ts"
import { ollamaError } from "./errors.ts"
import {
  chatOf,
  type OllamaChatRequest,
  type OllamaGenerateRequest,
  optionsOf,
  promptChatOf,
} from "./requests.ts"

const head = (model: string) => ({ model, created_at: new Date().toISOString() })

const nanoseconds = (ms: number): number => Math.round(ms * 1e6)

/** What stands in the last line alone. */
const ending = (stats: GenerateStats) => ({
  done: true,
  done_reason:
    stats.stopReason === "end-of-text" || stats.stopReason === "stop-text" ? "stop" : "length",
  total_duration: nanoseconds(stats.promptMs + stats.generateMs),
  load_duration: 0,
  prompt_eval_count: stats.promptTokenCount,
  prompt_eval_duration: nanoseconds(stats.promptMs),
  eval_count: stats.tokenCount,
  eval_duration: nanoseconds(stats.generateMs),
})

const logprobsOf = (logprobs: ReadonlyArray<Logprobs>) =>
  logprobs.length === 0 ? {} : { logprobs: logprobs.map(tokenProbability) }

/** The arguments, as far as they came. */
const parsed = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return {}
  }
}

const calledTool = ({
  name,
  arguments: args,
}: {
  readonly name: string
  readonly arguments: string
}) => ({
  function: { name, arguments: parsed(args) },
})

/** An answer, or a part of one, as a message. */
interface Part {
  readonly content: string
  readonly reasoning: string
  readonly toolCalls: ReadonlyArray<{ readonly name: string; readonly arguments: string }>
}

type Shape = (part: Part) => object

const asMessage: Shape = ({ content, reasoning, toolCalls }) => ({
  message: {
    role: "assistant",
    content,
    ...(reasoning === "" ? {} : { thinking: reasoning }),
    ...(toolCalls.length === 0 ? {} : { tool_calls: toolCalls.map(calledTool) }),
  },
})

const asResponse: Shape = ({ content, reasoning }) => ({
  response: content,
  ...(reasoning === "" ? {} : { thinking: reasoning }),
})

const nothing: Part = { content: "", reasoning: "", toolCalls: [] }

/** Tool calls are given whole: one is, when another begins or the answer ends. */
const partOf = (deltas: ReadonlyArray<OutputDelta>): Part => {
  const text = (wanted: "content" | "reasoning"): string =>
    deltas.map((delta) => (delta.type === wanted ? delta.text : "")).join("")
  return { content: text("content"), reasoning: text("reasoning"), toolCalls: [] }
}

const chatStream = (prepared: PreparedChat, model: string, shape: Shape) =>
  streamed(
    "lines",
    (write) => {
      const untold: Array<Logprobs> = []
      const line = (part: Part, more: object): void =>
        write(
          jsonLine({ ...head(model), ...shape(part), ...logprobsOf(untold.splice(0)), ...more }),
        )
      return Effect.map(
        answerChat(prepared, (_, deltas, token) => {
          if (token?.logprobs !== undefined) untold.push(token.logprobs)
          const part = partOf(deltas)
          if (part.content !== "" || part.reasoning !== "") line(part, { done: false })
        }),
        ([answer]) => {
          const { toolCalls, stats } = answer!
          if (toolCalls.length > 0) line({ ...nothing, toolCalls }, { done: false })
          line(nothing, ending(stats))
        },
      )
    },
    (error) => jsonLine(ollamaError(error)),
  )

const whole = (answer: Answer, model: string, shape: Shape): typeof JsonObject.Type => ({
  ...head(model),
  ...shape(answer),
  ...logprobsOf(answer.logprobs),
  ...ending(answer.stats),
})

const answered = (prepared: PreparedChat, stream: boolean | undefined, shape: Shape) =>
  Effect.gen(function* () {
    const { name } = yield* (yield* Serving).model
    // Ollama streams unless it is told not to.
    if (stream !== false) return yield* chatStream(prepared, name, shape)
    const [answer] = yield* answerChat(prepared)
    return whole(answer!, name, shape)
  })

/** Asked for nothing, Ollama loads the model, which is there already. */
const loaded = (shape: Shape): Effect.Effect<typeof JsonObject.Type, ApiError, Serving> =>
  Effect.gen(function* () {
    const { name } = yield* (yield* Serving).model
    return { ...head(name), ...shape(nothing), done: true, done_reason: "load" }
  })

export const handleChat = ({ payload }: { readonly payload: OllamaChatRequest }) =>
  (payload.messages ?? []).length === 0
    ? loaded(asMessage)
    : chatOf(payload).pipe(
        Effect.flatMap(prepareChat),
        Effect.flatMap((prepared) => answered(prepared, payload.stream, asMessage)),
      )

/** A prompt that is the model's text already, without a template. */
const rawAnswer = (request: OllamaGenerateRequest) =>
  Effect.gen(function* () {
    const { name } = yield* (yield* Serving).model
    const tokens = yield* tokenize(request.prompt ?? "")
    const runs = runsOf([tokens], 1, yield* optionsOf(request))
    if (request.stream === false) {
      const [done] = yield* finishAll(runs)
      const { text, logprobs, stats } = done!
      return { ...head(name), response: text, ...logprobsOf(logprobs), ...ending(stats) }
    }
    return yield* streamed(
      "lines",
      (write) =>
        Effect.map(
          finishAll(runs, (run) =>
            finish(run, ({ text, logprobs }) =>
              write(
                jsonLine({
                  ...head(name),
                  response: text,
                  ...logprobsOf(logprobs === undefined ? [] : [logprobs]),
                  done: false,
                }),
              ),
            ),
          ),
          ([done]) => write(jsonLine({ ...head(name), response: "", ...ending(done!.stats) })),
        ),
      (error) => jsonLine(ollamaError(error)),
    )
  })

export const handleGenerate = ({ payload }: { readonly payload: OllamaGenerateRequest }) => {
  if (payload.prompt === undefined || payload.prompt === "") return loaded(asResponse)
  if (payload.raw === true) return rawAnswer(payload)
  return promptChatOf(payload).pipe(
    Effect.flatMap(prepareChat),
    Effect.flatMap((prepared) => answered(prepared, payload.stream, asResponse)),
  )
}
