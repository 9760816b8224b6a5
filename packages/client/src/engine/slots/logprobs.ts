import type { LlamaModel } from "@ggml-rpc/native/bindings/llama"
import type { TokenLogprob, TokenLogprobs } from "../messages.ts"

/** What JSON can carry in place of minus infinity; OpenAI's API has it, too. */
const LEAST_LOGPROB = -9999

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
const lossy = new TextDecoder("utf-8", { ignoreBOM: true })

/** What `ModelContext.logprobs` found, with the tokens' texts. */
export const tokenLogprobs = (
  model: LlamaModel,
  [chosen, ...top]: ReadonlyArray<readonly [token: number, logprob: number]>,
): TokenLogprobs => ({
  chosen: tokenLogprob(model, chosen!),
  top: top.map((entry) => tokenLogprob(model, entry)),
})

const tokenLogprob = (
  model: LlamaModel,
  [id, found]: readonly [token: number, logprob: number],
): TokenLogprob => {
  const logprob = Math.max(found, LEAST_LOGPROB)
  const bytes = model.piece(id, true)
  try {
    return { id, text: strict.decode(bytes), logprob }
  } catch {
    return { id, text: lossy.decode(bytes), bytes: [...bytes], logprob }
  }
}
