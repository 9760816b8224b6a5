/** `ggml-rpc run`: one prompt through one model. */
import { type Cluster, type GgufFile, ggufString, loadGguf } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { EmptyPromptError, NoTokenizerError } from "../errors.ts"
import type { FlagValues, runFlags } from "../flags.ts"
import { withJsonErrors } from "../jsonErrors.ts"
import { jsonReport, type RunReport, textReport } from "../runReport.ts"
import { endingEngineFirst } from "./endingEngineFirst.ts"
import { checkServers, openCluster, planOptionsOf, prepareNative } from "./inputs.ts"
import { givenModel, modelPath } from "./modelSources.ts"
import { readPrompt } from "./prompt.ts"

type RunValues = FlagValues<typeof runFlags> & { readonly files: ReadonlyArray<string> }

export const run = (values: RunValues) =>
  withJsonErrors(
    Effect.scoped(
      Effect.gen(function* () {
        const given = yield* givenModel(values)
        const prompt = yield* readPrompt(values)
        const path = yield* modelPath(given, values, { isJson: values.json }, checkServers(values))
        // Before any server is asked: a wrong file is the likelier mistake.
        const gguf = yield* loadGguf(path)
        yield* requireTokenizer(gguf)
        yield* prepareNative
        const cluster = yield* openCluster(values)
        const report = values.json ? jsonReport() : textReport()
        yield* endingEngineFirst(
          cluster,
          recite(cluster, path, planOptionsOf(values, gguf), prompt, samplingOf(values), report),
        )
      }),
    ),
    values.json,
  )

const requireTokenizer = (gguf: GgufFile): Effect.Effect<void, NoTokenizerError> => {
  const kind = ggufString(gguf, "tokenizer.ggml.model")
  return kind === undefined || kind === "none" || kind === "no_vocab"
    ? Effect.fail(new NoTokenizerError({ path: gguf.path }))
    : Effect.void
}

const samplingOf = (values: RunValues): Cluster.GenerateOptions => ({
  ...given("maxTokens", values.predict === undefined ? undefined : Math.max(-1, values.predict)),
  ...given("temp", values.temp),
  ...given("topK", values.topK),
  ...given("topP", values.topP),
  ...given("minP", values.minP),
  ...given("repeatPenalty", values.repeatPenalty),
  ...given("repeatLastN", values.repeatLastN),
  ...given("seed", values.seed),
  ...(values.ignoreEos ? { ignoreEos: true } : {}),
})

const given = <K extends string>(key: K, value: number | undefined) =>
  (value === undefined ? {} : { [key]: value }) as Partial<Record<K, number>>

/** Plans, loads, generates, and reports each step. */
export const recite = (
  cluster: Cluster.Cluster,
  path: string,
  planOptions: Cluster.PlanOptions,
  prompt: string,
  options: Cluster.GenerateOptions,
  report: RunReport,
) =>
  Effect.scoped(
    Effect.gen(function* () {
      const plan = yield* cluster.plan(path, planOptions)
      report.planned(plan)
      const model = yield* cluster.load(plan, report.progress)
      report.loaded(model)
      const tokens = yield* model.tokenize(prompt)
      if (tokens.length === 0) return yield* new EmptyPromptError({ path })
      const stats = yield* model.generateEach(tokens, report.token, options)
      report.finished(model, stats)
    }).pipe(Effect.ensuring(Effect.sync(report.close))),
  )
