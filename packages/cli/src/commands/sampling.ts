/** What the flags of sampling come to. */
import { readFileSync } from "node:fs"
import type { SchemaError } from "@ggml-rpc/chat"
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
): Effect.Effect<Cluster.GenerateOptions, UsageError | SchemaError> =>
  Effect.gen(function* () {
    const {
      predict,
      samplers,
      mirostat,
      grammar,
      grammarFile,
      jsonSchema,
      jsonSchemaFile,
      ...numbers
    } = pick(values)
    return withoutAbsent({
      ...numbers,
      maxTokens: predict === undefined ? undefined : Math.max(-1, predict),
      // llama-cli's -2: until the context is full.
      contextShift: values.contextShift && predict !== -2,
      mirostat: mirostat as 0 | 1 | 2 | undefined,
      samplers: samplers === undefined ? undefined : yield* samplersOf(samplers),
      grammar: yield* grammarOf({ grammar, grammarFile, jsonSchema, jsonSchemaFile }),
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

type GrammarValues = Pick<
  SamplingValues,
  "grammar" | "grammarFile" | "jsonSchema" | "jsonSchemaFile"
>

/** One of the four flags, as a grammar. */
const grammarOf = (
  values: GrammarValues,
): Effect.Effect<string | undefined, UsageError | SchemaError> =>
  Effect.gen(function* () {
    const { grammar, grammarFile, jsonSchema, jsonSchemaFile } = values
    if (Object.values(values).filter((value) => value !== undefined).length > 1) {
      const names = "--grammar, --grammar-file, --json-schema and --json-schema-file"
      return yield* Effect.fail(
        new UsageError(`of ${names} one says what the text follows; give one`),
      )
    }
    if (grammarFile !== undefined) return yield* readFile(grammarFile, "--grammar-file")
    if (jsonSchema !== undefined) return yield* schemaGrammar(jsonSchema, "--json-schema")
    if (jsonSchemaFile === undefined) return grammar
    const text = yield* readFile(jsonSchemaFile, "--json-schema-file")
    return yield* schemaGrammar(text, `--json-schema-file: ${jsonSchemaFile}`)
  })

const readFile = (path: string, flag: string): Effect.Effect<string, UsageError> =>
  Effect.try({
    try: () => readFileSync(path, "utf8"),
    catch: (cause) => new UsageError(`${flag}: ${path} cannot be read: ${reasonOf(cause)}`),
  })

const schemaGrammar = (text: string, source: string) =>
  Effect.flatMap(
    Effect.try({
      try: (): unknown => JSON.parse(text),
      catch: (cause) => new UsageError(`${source} is no JSON: ${reasonOf(cause)}`),
    }),
    (schema) =>
      Effect.flatMap(
        // Loaded where a schema is given.
        Effect.promise(() => import("@ggml-rpc/chat")),
        ({ grammarOfSchema, SchemaError }) =>
          Effect.try({
            try: () => grammarOfSchema(schema),
            catch: (error) => {
              if (error instanceof SchemaError) return error
              throw error
            },
          }),
      ),
  )

const reasonOf = (cause: unknown): string =>
  cause instanceof Error ? cause.message : String(cause)
