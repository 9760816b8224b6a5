/** What the flags of sampling come to. */
import { readFileSync } from "node:fs"
import type { Cluster } from "@ggml-rpc/client"
import { type SamplerName, samplerNamed, samplerNames } from "@ggml-rpc/native"
import * as Effect from "effect/Effect"
import type { FlagValues } from "../flags/Flag.ts"
import { generationFlags } from "../flags/generation.ts"
import { UsageError } from "../UsageError.ts"
import { withoutAbsent } from "./withoutAbsent.ts"

type SamplingValues = FlagValues<typeof generationFlags>

export const samplingOf = (
  values: SamplingValues,
): Effect.Effect<Cluster.GenerateOptions, UsageError> =>
  Effect.gen(function* () {
    const { predict, samplers, mirostat, grammar, grammarFile, ...numbers } = pick(values)
    return withoutAbsent({
      ...numbers,
      // llama-cli's -2, until the context is full, is what -1 does anyway.
      maxTokens: predict === undefined ? undefined : Math.max(-1, predict),
      mirostat: mirostat as 0 | 1 | 2 | undefined,
      samplers: samplers === undefined ? undefined : yield* samplersOf(samplers),
      grammar: yield* grammarOf(grammar, grammarFile),
    })
  })

const names = Object.keys(generationFlags) as ReadonlyArray<keyof SamplingValues>

/** Without a command's other flags. */
const pick = (values: SamplingValues): SamplingValues =>
  Object.fromEntries(names.map((name) => [name, values[name]])) as SamplingValues

const samplersOf = (text: string): Effect.Effect<ReadonlyArray<SamplerName>, UsageError> =>
  Effect.forEach(text.split(";"), (name) => {
    const found = samplerNamed(name)
    return found === undefined
      ? Effect.fail(
          new UsageError(
            `--samplers takes names with semicolons between them, of ${samplerNames.join(", ")}; there is no '${name.trim()}'`,
          ),
        )
      : Effect.succeed(found)
  })

const grammarOf = (
  text: string | undefined,
  file: string | undefined,
): Effect.Effect<string | undefined, UsageError> => {
  if (file === undefined) return Effect.succeed(text)
  if (text !== undefined) {
    return Effect.fail(new UsageError("--grammar and --grammar-file name two grammars; give one"))
  }
  return Effect.try({
    try: () => readFileSync(file, "utf8"),
    catch: (cause) =>
      new UsageError(
        `--grammar-file: ${file} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`,
      ),
  })
}
