/** Prompts as requests give them, in tokens. */
import type { Cluster } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import type { ApiError } from "./ApiError.ts"
import type { MixedPrompt, Prompts } from "./fields.ts"
import { tokenize } from "./generate.ts"
import type { Serving } from "./Serving.ts"

type Prompt = string | typeof MixedPrompt.Type

/** An array with a number in it is one prompt; else each entry is one. */
const separate = (prompts: Prompts): ReadonlyArray<Prompt> => {
  if (typeof prompts === "string") return [prompts]
  const entries = prompts as ReadonlyArray<number | Prompt>
  return entries.some((entry) => typeof entry === "number")
    ? [prompts as typeof MixedPrompt.Type]
    : (entries as ReadonlyArray<Prompt>)
}

/** Only a text at the beginning gets the model's marks around it. */
export const tokenizePrompt = (
  prompt: Prompt,
  { addSpecial = true, parseSpecial = true }: Cluster.TokenizeOptions = {},
): Effect.Effect<ReadonlyArray<number>, ApiError, Serving> =>
  typeof prompt === "string"
    ? tokenize(prompt, { addSpecial, parseSpecial })
    : Effect.map(
        Effect.forEach(prompt, (part, index) =>
          typeof part === "number"
            ? Effect.succeed([part])
            : tokenize(part, { addSpecial: addSpecial && index === 0, parseSpecial }),
        ),
        (parts) => parts.flat(),
      )

export const tokenizePrompts = (
  prompts: Prompts,
): Effect.Effect<ReadonlyArray<ReadonlyArray<number>>, ApiError, Serving> =>
  Effect.forEach(separate(prompts), (prompt) => tokenizePrompt(prompt))
