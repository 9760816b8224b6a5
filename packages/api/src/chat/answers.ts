/** A model's answers to a chat, apart in thoughts, text and tool calls as they come. */
import { type OutputDelta, OutputReader } from "@ggml-rpc/chat"
import type { GenerateStats } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import type { ApiError } from "../ApiError.ts"
import { tokenize } from "../generate.ts"
import { Serving } from "../Serving.ts"
import { finish, type Logprobs, runsOf, type TextRun, type Token } from "../textRuns.ts"
import type { ChatRequest } from "./ChatRequest.ts"
import { chatGrammar } from "./grammar.ts"
import { chatPrompt } from "./prompt.ts"

export interface CalledTool {
  readonly id: string
  readonly name: string
  /** JSON as text. */
  readonly arguments: string
}

export interface Answer {
  readonly run: TextRun
  readonly reasoning: string
  readonly content: string
  readonly toolCalls: ReadonlyArray<CalledTool>
  readonly logprobs: ReadonlyArray<Logprobs>
  readonly stats: GenerateStats
}

/** A part of an answer; the last ones come without a token. */
export type OnDeltas = (
  run: TextRun,
  deltas: ReadonlyArray<OutputDelta>,
  token: Token | undefined,
) => void

/** Puts deltas together. */
class AnswerText {
  reasoning = ""
  content = ""
  readonly toolCalls: Array<{ id: string; name: string; arguments: string }> = []

  add(deltas: ReadonlyArray<OutputDelta>): void {
    for (const delta of deltas) {
      if (delta.type === "reasoning") this.reasoning += delta.text
      else if (delta.type === "content") this.content += delta.text
      else if (delta.type === "toolArguments") this.toolCalls[delta.index]!.arguments += delta.text
      else this.toolCalls.push({ id: delta.id, name: delta.name, arguments: "" })
    }
  }
}

/** What a chat comes to before it runs, so that what is wrong with it is known. */
export interface PreparedChat {
  readonly request: ChatRequest
  readonly prompt: string
  readonly runs: ReadonlyArray<TextRun>
}

export const prepareChat = (request: ChatRequest): Effect.Effect<PreparedChat, ApiError, Serving> =>
  Effect.gen(function* () {
    const prompt = yield* chatPrompt(request)
    const tokens = yield* tokenize(prompt)
    const template = yield* (yield* (yield* Serving).model).template
    const grammar = yield* chatGrammar(request, template, prompt)
    const options = {
      ...request.options,
      // Marks of thoughts and tool calls are control tokens of many models.
      controlText: true,
      ...(grammar === undefined ? {} : { grammar }),
    }
    return { request, prompt, runs: runsOf([tokens], request.count ?? 1, options) }
  })

const answerOne = (
  { request, prompt }: PreparedChat,
  run: TextRun,
  onDeltas: OnDeltas,
): Effect.Effect<Answer, ApiError, Serving> =>
  Effect.gen(function* () {
    const { model, options } = yield* Serving
    const template = yield* (yield* model).template
    const tools = request.toolChoice === "none" ? [] : request.tools
    const reader = new OutputReader(template, {
      prompt,
      tools,
      reasoningFormat: request.reasoningFormat ?? options.reasoningFormat,
    })
    const text = new AnswerText()
    const give = (deltas: ReadonlyArray<OutputDelta>, token: Token | undefined): void => {
      text.add(deltas)
      onDeltas(run, deltas, token)
    }
    const { logprobs, stats } = yield* finish(run, (token) => give(reader.push(token.text), token))
    give(reader.finish(), undefined)
    const { reasoning, content, toolCalls } = text
    return { run, reasoning, content, toolCalls, logprobs, stats }
  })

/** All answers; `onDeltas` is called as they come. */
export const answerChat = (
  prepared: PreparedChat,
  onDeltas: OnDeltas = () => {},
): Effect.Effect<ReadonlyArray<Answer>, ApiError, Serving> =>
  Effect.flatMap(Serving, ({ activity }) =>
    activity.each(prepared.runs, (run) => answerOne(prepared, run, onDeltas)),
  )
