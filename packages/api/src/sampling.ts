/** How a request chooses tokens: llama-server's fields (llama.cpp v0.5.0, tools/server/server-schema.cpp), in every dialect that has them. */
import type { Cluster } from "@ggml-rpc/client"
import { samplerNamed, samplerNames } from "@ggml-rpc/native"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type ApiError, invalidRequest } from "./ApiError.ts"
import { schemaGrammar } from "./chat/grammar.ts"
import { JsonObject, optional } from "./fields.ts"
import { tokenize } from "./generate.ts"
import type { Serving } from "./Serving.ts"

type Options = Cluster.GenerateOptions

/** What `-1` means in a request: as much as there is room for. */
const Count = Schema.Int.pipe(Schema.greaterThanOrEqualTo(-1))
const { Number: Real, NonNegativeInt: Natural } = Schema

/** Fields that are one of the sampler's numbers: which, its default, and what it may be. */
const numberFields = {
  temperature: ["temp", 0.8, Real],
  dynatemp_range: ["dynatempRange", 0, Real],
  dynatemp_exponent: ["dynatempExp", 1, Real],
  top_k: ["topK", 40, Schema.Int],
  top_p: ["topP", 0.95, Real],
  min_p: ["minP", 0.05, Real],
  top_n_sigma: ["topNSigma", -1, Real],
  xtc_probability: ["xtcProbability", 0, Real],
  xtc_threshold: ["xtcThreshold", 0.1, Real],
  typical_p: ["typicalP", 1, Real],
  repeat_last_n: ["repeatLastN", 64, Natural],
  repeat_penalty: ["repeatPenalty", 1, Schema.Positive],
  presence_penalty: ["presencePenalty", 0, Real],
  frequency_penalty: ["frequencyPenalty", 0, Real],
  dry_multiplier: ["dryMultiplier", 0, Real],
  dry_base: ["dryBase", 1.75, Real],
  dry_allowed_length: ["dryAllowedLength", 2, Natural],
  dry_penalty_last_n: ["dryPenaltyLastN", 64, Natural],
  mirostat: ["mirostat", 0, Schema.Int.pipe(Schema.between(0, 2))],
  mirostat_tau: ["mirostatTau", 5, Real],
  mirostat_eta: ["mirostatEta", 0.1, Real],
  adaptive_target: ["adaptiveTarget", -1, Real],
  adaptive_decay: ["adaptiveDecay", 0.9, Schema.Number.pipe(Schema.between(0, 0.99))],
} as const satisfies Record<string, readonly [keyof Options, number, Schema.Schema<number, number>]>

type NumberFields = typeof numberFields
type NumberName = keyof NumberFields

const numberNames = Object.keys(numberFields) as ReadonlyArray<NumberName>

const numberSchemas = Object.fromEntries(
  numberNames.map((name) => [name, optional(numberFields[name][2])]),
) as { [Name in NumberName]: ReturnType<typeof optional<number, number>> }

const Bias = Schema.Union(Schema.Number, Schema.Literal(false))

/** Fields for the `Struct` of a request. */
export const samplingFields = {
  ...numberSchemas,
  seed: optional(Schema.Int),
  n_predict: optional(Count),
  max_tokens: optional(Count),
  ignore_eos: optional(Schema.Boolean),
  samplers: optional(Schema.Array(Schema.String)),
  dry_sequence_breakers: optional(Schema.Array(Schema.String)),
  logit_bias: optional(
    Schema.Union(
      Schema.Array(Schema.Tuple(Schema.Union(Schema.Int, Schema.String), Bias)),
      Schema.Record({ key: Schema.String, value: Bias }),
    ),
  ),
  grammar: optional(Schema.String),
  json_schema: optional(JsonObject),
  cache_prompt: optional(Schema.Boolean),
  id_slot: optional(Schema.Int),
}

const SamplingRequest = Schema.Struct(samplingFields)
export type SamplingRequest = typeof SamplingRequest.Type

/** What a request says of them, over the server's `defaults`. */
export const samplingOf = (
  request: SamplingRequest,
  defaults: Options,
): Effect.Effect<Options, ApiError, Serving> =>
  Effect.gen(function* () {
    const { seed, n_predict, max_tokens, ignore_eos, cache_prompt, id_slot } = request
    const maxTokens = n_predict ?? max_tokens
    const samplers = yield* samplersOf(request.samplers)
    const grammar = yield* grammarOf(request)
    const logitBias = yield* biasesOf(request.logit_bias)
    const numbers = numberNames
      .filter((name) => request[name] !== undefined)
      .map((name) => [numberFields[name][0], request[name]])
    return {
      ...defaults,
      ...Object.fromEntries(numbers),
      ...(seed === undefined ? {} : { seed }),
      ...(maxTokens === undefined ? {} : { maxTokens }),
      ...(ignore_eos === undefined ? {} : { ignoreEos: ignore_eos }),
      ...(grammar === undefined ? {} : { grammar }),
      ...(cache_prompt === undefined ? {} : { cachePrompt: cache_prompt }),
      ...(id_slot === undefined || id_slot < 0 ? {} : { slot: id_slot }),
      ...(samplers === undefined ? {} : { samplers }),
      ...(logitBias === undefined ? {} : { logitBias }),
      ...(request.dry_sequence_breakers === undefined
        ? {}
        : { drySequenceBreakers: request.dry_sequence_breakers }),
    }
  })

/** That of the schema, where both are given, as with llama-server. */
const grammarOf = ({
  grammar,
  json_schema,
}: SamplingRequest): Effect.Effect<string | undefined, ApiError> =>
  json_schema === undefined
    ? Effect.succeed(grammar === "" ? undefined : grammar)
    : schemaGrammar(Object.keys(json_schema).length === 0 ? { type: "object" } : json_schema)

const samplersOf = (
  names: ReadonlyArray<string> | undefined,
): Effect.Effect<Options["samplers"], ApiError> =>
  names === undefined
    ? Effect.succeed(undefined)
    : Effect.forEach(names, (name) => {
        const found = samplerNamed(name)
        return found === undefined
          ? Effect.fail(
              invalidRequest(
                `There is no sampler '${name}'; there are ${samplerNames.join(", ")}.`,
                "samplers",
              ),
            )
          : Effect.succeed(found)
      })

/** A token by its number, or all tokens of a text; `false` forbids. */
const biasesOf = (
  given: SamplingRequest["logit_bias"],
): Effect.Effect<Options["logitBias"], ApiError, Serving> => {
  if (given === undefined) return Effect.succeed(undefined)
  const pairs = Array.isArray(given) ? given : Object.entries(given)
  return Effect.map(
    Effect.forEach(pairs, ([token, bias]) => {
      const amount = bias === false ? Number.NEGATIVE_INFINITY : bias
      const ids =
        typeof token === "number"
          ? Effect.succeed([token])
          : /^\d+$/.test(token)
            ? Effect.succeed([Number(token)])
            : tokenize(token, { addSpecial: false })
      return Effect.map(ids, (found) => found.map((id) => [id, amount] as const))
    }),
    (found) => found.flat(),
  )
}

/** The options as llama-server reports them, `generation_settings`. */
export const generationSettings = (options: Options) => ({
  seed: options.seed ?? -1,
  ...Object.fromEntries(
    numberNames.map((name) => [name, options[numberFields[name][0]] ?? numberFields[name][1]]),
  ),
  max_tokens: options.maxTokens ?? -1,
  n_predict: options.maxTokens ?? -1,
  ignore_eos: options.ignoreEos ?? false,
  stop: options.stop ?? [],
  n_probs: options.topLogprobs ?? 0,
  grammar: options.grammar ?? "",
  samplers: options.samplers ?? samplerNames.slice(0, 9),
  dry_sequence_breakers: options.drySequenceBreakers ?? ["\n", ":", '"', "*"],
  logit_bias: (options.logitBias ?? []).map(([token, bias]) => ({ token, bias })),
})
