/** The texts of one request: each prompt, as often as it is wanted, all at once. */
import type { Cluster, GenerateStats } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import type { ApiError } from "./ApiError.ts"
import { generate } from "./generate.ts"
import { Serving } from "./Serving.ts"

export type Token = Cluster.GeneratedToken
export type Logprobs = NonNullable<Token["logprobs"]>

export interface TextRun {
  /** Its place in the answer. */
  readonly index: number
  readonly prompt: ReadonlyArray<number>
  readonly options: Cluster.GenerateOptions
}

/** What a run came to. */
export interface FinishedText {
  readonly run: TextRun
  readonly text: string
  /** Ids of what was generated. */
  readonly tokens: ReadonlyArray<number>
  readonly logprobs: ReadonlyArray<Logprobs>
  readonly stats: GenerateStats
}

/** `count` runs of each prompt; with a seed, each has the next one, so that they differ. */
export const runsOf = (
  prompts: ReadonlyArray<ReadonlyArray<number>>,
  count: number,
  options: Cluster.GenerateOptions,
): ReadonlyArray<TextRun> =>
  prompts.flatMap((prompt, at) =>
    Array.from({ length: count }, (_, copy) => ({
      index: at * count + copy,
      prompt,
      options:
        options.seed === undefined || options.seed < 0
          ? options
          : { ...options, seed: (options.seed + copy) >>> 0 },
    })),
  )

/** Calls `onToken` for each token as it comes, and puts all of them together in the end. */
export const finish = (
  run: TextRun,
  onToken: (token: Token) => void = () => {},
): Effect.Effect<FinishedText, ApiError, Serving> =>
  Effect.suspend(() => {
    const texts: Array<string> = []
    const tokens: Array<number> = []
    const logprobs: Array<Logprobs> = []
    const take = (token: Token): void => {
      texts.push(token.text)
      if (token.id >= 0) tokens.push(token.id)
      if (token.logprobs !== undefined) logprobs.push(token.logprobs)
      onToken(token)
    }
    return Effect.map(generate(run.prompt, run.options, take), (stats) => ({
      run,
      text: texts.join(""),
      tokens,
      logprobs,
      stats,
    }))
  })

/** All runs of a request, as they get their turns. */
export const finishAll = (
  runs: ReadonlyArray<TextRun>,
  work: (run: TextRun) => Effect.Effect<FinishedText, ApiError, Serving> = finish,
): Effect.Effect<ReadonlyArray<FinishedText>, ApiError, Serving> =>
  Effect.flatMap(Serving, ({ activity }) => activity.each(runs, (run) => work(run)))

/** How long things took, as llama-server tells it. */
export const timings = (stats: GenerateStats) => {
  const { promptTokenCount, cachedTokenCount, promptMs, tokenCount, generateMs } = stats
  const { draftedCount = 0, acceptedCount = 0 } = stats
  const prompt = promptTokenCount - cachedTokenCount
  return {
    cache_n: cachedTokenCount,
    prompt_n: prompt,
    prompt_ms: promptMs,
    prompt_per_token_ms: prompt === 0 ? 0 : promptMs / prompt,
    prompt_per_second: perSecond(prompt, promptMs),
    predicted_n: tokenCount,
    predicted_ms: generateMs,
    predicted_per_token_ms: tokenCount === 0 ? 0 : generateMs / tokenCount,
    predicted_per_second: perSecond(tokenCount, generateMs),
    ...(draftedCount === 0 ? {} : { draft_n: draftedCount, draft_n_accepted: acceptedCount }),
  }
}

const perSecond = (count: number, ms: number): number => (ms > 0 ? (count * 1000) / ms : 0)
