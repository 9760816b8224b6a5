/** `ggml-rpc bench`: how fast a cluster is, as llama-bench and llama-batched-bench tell it of one machine. */
import { type Cluster, loadModelHeader } from "@ggml-rpc/client"
import { defaultThreadCount } from "@ggml-rpc/native"
import * as Effect from "effect/Effect"
import {
  type BenchSetting,
  type BenchTest,
  contextSizeFor,
  settingsOf,
  testsOf,
} from "../bench/cases.ts"
import { measureTest } from "../bench/measure.ts"
import { type BenchReport, benchReport, tellsSpeeds } from "../bench/report.ts"
import { rowOf } from "../bench/rows.ts"
import type { CommandValues } from "../flags/commands.ts"
import { textReport } from "../runReport.ts"
import { UsageError } from "../UsageError.ts"
import { endingEngineFirst } from "./endingEngineFirst.ts"
import { checkServers, openCluster, prepareNative } from "./inputs.ts"
import { givenModels, modelPath } from "./modelSources.ts"
import { deviceChoice } from "./placement.ts"

type BenchValues = CommandValues<"bench">

export const bench = (values: BenchValues) =>
  Effect.scoped(
    Effect.gen(function* () {
      const { models = [], ...others } = values
      const given = yield* givenModels({ ...others, files: [...models, ...values.files] })
      const tests = testsOf(values)
      if (tests.length === 0) {
        return yield* Effect.fail(new UsageError("there is no test: -p, -n or -pg gives some"))
      }
      const paths = yield* Effect.forEach(given, (model) =>
        modelPath(model, values, {}, checkServers(values)),
      )
      // Before any server is asked: a wrong file is the likelier mistake.
      yield* Effect.forEach(paths, (path) => loadModelHeader(path), { discard: true })
      yield* prepareNative
      const settings = settingsOf({
        ...values,
        paths,
        threads: values.threads ?? [defaultThreadCount()],
      })
      const cluster = yield* openCluster({ ...values, json: false })
      const work = Effect.gen(function* () {
        const format = values.output ?? "text"
        const isLinked = cluster.servers.length > 0 && tellsSpeeds(format)
        const speeds = isLinked ? yield* cluster.linkSpeeds : []
        const report = benchReport(format, { settings, tests, speeds })
        report.begin()
        yield* Effect.forEach(settings, (setting) =>
          benchSetting(cluster, setting, tests, values, report),
        ).pipe(Effect.ensuring(Effect.sync(report.end)))
      })
      yield* endingEngineFirst(cluster, work)
    }),
  )

const benchSetting = (
  cluster: Cluster.Cluster,
  setting: BenchSetting,
  tests: ReadonlyArray<BenchTest>,
  values: BenchValues,
  report: BenchReport,
) =>
  Effect.scoped(
    Effect.gen(function* () {
      const plan = yield* cluster.plan(setting.path, {
        contextSize: Math.max(...tests.map(contextSizeFor)),
        slots: Math.max(...tests.map(({ parallel }) => parallel)),
        batchSize: setting.batchSize,
        ubatchSize: setting.ubatchSize,
        typeK: setting.typeK,
        typeV: setting.typeV,
        flashAttention: setting.flashAttention,
        threads: setting.threads,
        gpuLayers: setting.gpuLayers < 0 ? undefined : setting.gpuLayers,
        splitMode: setting.splitMode,
        wire: setting.wire,
        tensorSplit: setting.tensorSplit,
        devices: deviceChoice(values.device).devices,
        // As 'run' loads it.
        generatesOnly: true,
        hashesBeside: false,
      })
      const loading = textReport()
      const model = yield* cluster
        .load(plan, loading.progress)
        .pipe(Effect.ensuring(Effect.sync(loading.close)))
      for (const test of tests) {
        const measured = yield* measureTest(cluster, model, test, {
          repetitions: values.repetitions,
          warmup: values.warmup,
          delayMs: values.delay * 1000,
        })
        report.row(rowOf(setting, test, model, measured, cluster.devices))
      }
    }),
  )
