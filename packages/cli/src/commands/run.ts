/** `ggml-rpc run`: one prompt through one model, or a conversation with it. */

import { existsSync } from "node:fs"
import { type Cluster, type GgufFile, ggufString } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { hasAffixes } from "../chat/affixes.ts"
import { EmptyPromptError, PromptTooLongError } from "../errors.ts"
import type { CommandValues } from "../flags/commands.ts"
import { GenerationMeter } from "../GenerationMeter.ts"
import { withJsonErrors } from "../jsonErrors.ts"
import { jsonReport, type RunReport, textReport } from "../runReport.ts"
import { isStdinTerminal, stdout } from "../terminal.ts"
import { UsageError } from "../UsageError.ts"
import { endEngine, endingEngineFirst } from "./endingEngineFirst.ts"
import { openCluster, planOptionsOf, prepareNative } from "./inputs.ts"
import { givenModel, modelPath } from "./modelSources.ts"
import { openModel } from "./openModel.ts"
import { noPrompt, readPrompt, stopTextsOf } from "./prompt.ts"
import { samplingOf } from "./sampling.ts"
import { speculationOf } from "./speculation.ts"

type RunValues = CommandValues<"run">

export const run = (values: RunValues) =>
  withJsonErrors(
    Effect.scoped(
      Effect.gen(function* () {
        const given = yield* givenModel(values)
        const prompt = yield* promptOf(values)
        const options = { ...(yield* samplingOf(values)), ...stopTextsOf(values) }
        // Before any server is asked: a wrong file is the likelier mistake.
        const { path, gguf } = yield* openModel(given, values, values.json)
        const speculation = yield* speculationOf(values, (draft) =>
          modelPath(draft, values, { isJson: values.json }, Effect.void),
        )
        const isChat =
          values.conversation ?? (hasAffixes(values) || (!values.json && hasChatTemplate(gguf)))
        if (isChat) {
          if (values.promptCache !== undefined) return yield* Effect.fail(cacheOfChat())
          // Templates and what reads answers take a while to load, and a text needs none of it.
          const { talkWith } = yield* Effect.promise(() => import("./chat.ts"))
          return yield* talkWith({ path, gguf }, values, options, prompt, speculation)
        }
        if (prompt === undefined) return yield* Effect.fail(noPrompt())
        yield* prepareNative
        const report = values.json
          ? jsonReport()
          : textReport({
              echoesPrompt: values.displayPrompt && stdout.isTTY,
              hasTimings: values.perf,
            })
        const cluster = yield* openCluster(values, report)
        yield* endingEngineFirst(
          cluster,
          recite(cluster, path, { ...planOptionsOf(values, gguf), ...speculation }, report, {
            prompt,
            options,
            cache: values.promptCache,
            isCacheKept: !values.promptCacheRo,
          }),
        )
        yield* endEngine(cluster)
      }),
    ),
    values.json,
  )

const cacheOfChat = () =>
  new UsageError("--prompt-cache is for one text that goes on: -no-cnv asks for that")

/** The prompt; undefined where a conversation may begin without one. */
const promptOf = (values: RunValues) => {
  const isNeeded = values.conversation === false || values.json
  const isTyped = values.prompt === undefined && values.file === undefined && isStdinTerminal()
  return isTyped && !isNeeded ? Effect.succeed(undefined) : readPrompt(values)
}

const hasChatTemplate = (gguf: GgufFile): boolean =>
  ggufString(gguf, "tokenizer.chat_template") !== undefined

/** A text's tokens are a byte or more each, but for these. */
const MARK_COUNT = 8

/** Before any weight is sent; a text that is short enough whatever its tokens are is not looked at. */
const checkLength = (
  cluster: Cluster.Cluster,
  { path, contextSize, context }: Cluster.ModelPlan,
  prompt: string,
) =>
  Effect.gen(function* () {
    const batchSize = context.wholeBatch ? context.ubatchSize : Number.POSITIVE_INFINITY
    if (Buffer.byteLength(prompt) + MARK_COUNT < Math.min(contextSize, batchSize)) return
    const { length: tokenCount } = yield* cluster.tokenize(path, prompt)
    if (tokenCount >= contextSize || tokenCount > batchSize) {
      return yield* new PromptTooLongError({ path, tokenCount, contextSize, batchSize })
    }
  })

export interface Recital {
  readonly prompt: string
  readonly options: Cluster.GenerateOptions
  /** File with what the model made of a text before: of the same beginning it need not be computed again. */
  readonly cache?: string | undefined
  /** Writes what it made of this one there. */
  readonly isCacheKept?: boolean
}

/** Plans, loads, generates, and reports each step. The model stays until the scope closes, or its engine ends. */
export const recite = (
  cluster: Cluster.Cluster,
  path: string,
  planOptions: Cluster.PlanOptions,
  report: RunReport,
  { prompt, options, cache, isCacheKept = true }: Recital,
) =>
  Effect.gen(function* () {
    const plan = yield* cluster.plan(path, planOptions)
    report.planned(plan)
    yield* checkLength(cluster, plan, prompt)
    const model = yield* cluster.load(plan, report.progress)
    report.loaded(model)
    const tokens = yield* model.tokenize(prompt)
    if (tokens.length === 0) return yield* new EmptyPromptError({ path })
    if (cache !== undefined && existsSync(cache)) yield* model.restoreSlot(0, cache)
    // An encoder's text is not continued, but answered.
    if (!model.info.hasEncoder) report.prompt(prompt)
    const meter = new GenerationMeter(tokens.length)
    const onToken = (token: Cluster.GeneratedToken): void => {
      meter.count(token)
      report.token(token)
    }
    const stats = yield* Effect.onInterrupt(model.generateEach(tokens, onToken, options), () =>
      Effect.sync(() => {
        if (meter.tokenCount > 0 && !stdout.isBroken) report.finished(model, meter.stats)
      }),
    )
    if (stats.stopText !== undefined) report.stopText(stats.stopText)
    if (cache !== undefined && isCacheKept) yield* model.saveSlot(0, cache)
    report.finished(model, stats)
  }).pipe(Effect.ensuring(Effect.sync(report.close)))
