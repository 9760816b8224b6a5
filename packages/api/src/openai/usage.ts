/** Counts of tokens as OpenAI tells them. */
import type { GenerateStats } from "@ggml-rpc/client"
import * as Schema from "effect/Schema"

export const Usage = Schema.Struct({
  prompt_tokens: Schema.Int,
  completion_tokens: Schema.Int,
  total_tokens: Schema.Int,
  prompt_tokens_details: Schema.Struct({ cached_tokens: Schema.Int }),
}).annotations({ identifier: "OpenAiUsage" })

type Run = { readonly prompt: ReadonlyArray<number> }

/** Of all texts of a request; a prompt of several counts once. */
export const usageOf = (
  texts: ReadonlyArray<{ readonly run: Run; readonly stats: GenerateStats }>,
): typeof Usage.Type => {
  const prompts = new Map(texts.map(({ run, stats }) => [run.prompt, stats]))
  const sum = (values: Iterable<number>): number => [...values].reduce((all, one) => all + one, 0)
  const promptTokens = sum([...prompts.keys()].map(({ length }) => length))
  const completionTokens = sum(texts.map(({ stats }) => stats.tokenCount))
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: {
      cached_tokens: sum([...prompts.values()].map(({ cachedTokenCount }) => cachedTokenCount)),
    },
  }
}
