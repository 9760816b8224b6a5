/** `ggml-rpc api`: a model on the cluster, for whoever asks by HTTP. */
import { mkdirSync } from "node:fs"
import { basename } from "node:path"
import { type ApiOptions, serveApi } from "@ggml-rpc/api"
import type { Cluster, GgufFile } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { givenTemplate, readText } from "../chat/template.ts"
import { fileReason } from "../fileReason.ts"
import type { CommandValues } from "../flags/commands.ts"
import { textReport } from "../runReport.ts"
import { noteLine, printLine } from "../terminal.ts"
import { UsageError } from "../UsageError.ts"
import { endingEngineFirst } from "./endingEngineFirst.ts"
import { openCluster, planOptionsOf, prepareNative } from "./inputs.ts"
import { type GivenModel, givenModel, modelPath } from "./modelSources.ts"
import { openModel } from "./openModel.ts"
import { samplingOf } from "./sampling.ts"
import { speculationOf } from "./speculation.ts"

type ApiValues = CommandValues<"api">

export const api = (values: ApiValues) =>
  Effect.scoped(
    Effect.gen(function* () {
      const given = yield* givenModel(values)
      const options = yield* optionsOf(values)
      const { path, gguf } = yield* openModel(given, values, false)
      const speculation = yield* speculationOf(values, (draft) =>
        modelPath(draft, values, {}, Effect.void),
      )
      const server = yield* serveApi(options)
      warnOpen(options)
      noteLine(`${server.url} answers when the model is loaded`)
      yield* prepareNative
      const report = textReport()
      const cluster = yield* openCluster({ ...values, json: false }, report)
      const load = Effect.gen(function* () {
        const plan = yield* cluster.plan(path, { ...modelOptions(values, gguf), ...speculation })
        report.planned(plan)
        const model = yield* cluster.load(plan, report.progress)
        report.loaded(model)
        server.offer(model, values.alias ?? nameOf(given), cluster)
        printLine(`listening on ${server.url}`)
        return yield* server.ended
      }).pipe(Effect.ensuring(Effect.sync(report.close)))
      yield* endingEngineFirst(cluster, load)
    }),
  )

const nameOf = (given: GivenModel): string =>
  given.kind === "file" ? basename(given.path) : given.name

const modelOptions = (values: ApiValues, gguf: GgufFile): Cluster.PlanOptions => ({
  ...planOptionsOf(values, gguf),
  slots: values.parallel,
  groups: values.groups,
  ...(values.embeddings || values.reranking ? { embeddings: true } : {}),
  pooling: values.reranking ? "rank" : values.pooling,
})

const optionsOf = (values: ApiValues) =>
  Effect.gen(function* () {
    const { sslKeyFile, sslCertFile, slotSavePath } = values
    if ((sslKeyFile === undefined) !== (sslCertFile === undefined)) {
      return yield* Effect.fail(
        new UsageError("--ssl-key-file and --ssl-cert-file belong together; give both"),
      )
    }
    const chatTemplate = yield* givenTemplate(values)
    const defaults = yield* samplingOf(values)
    if (slotSavePath !== undefined) {
      yield* makeFolder(slotSavePath)
    }
    return {
      host: values.host.replace(/^\[(.*)\]$/, "$1"),
      port: values.port,
      apiKeys: yield* keysOf(values),
      corsOrigins: values.corsOrigins ?? [],
      maxRequestBytes: values.maxRequestSize,
      readTimeoutMs: values.httpTimeout * 1000,
      pingIntervalMs: values.ssePingInterval * 1000,
      maxQueued: values.maxQueue,
      hasPage: values.webui,
      hasSlots: values.slots,
      hasMetrics: values.metrics,
      slotSavePath,
      defaults,
      chatTemplate,
      templateArguments: values.chatTemplateKwargs ?? {},
      ...(values.reasoning === "off" ? { enableThinking: false } : {}),
      reasoningFormat: values.reasoningFormat ?? "auto",
      ...(sslKeyFile === undefined || sslCertFile === undefined
        ? {}
        : {
            tls: {
              key: yield* readText("--ssl-key-file", sslKeyFile),
              cert: yield* readText("--ssl-cert-file", sslCertFile),
            },
          }),
    } satisfies ApiOptions
  })

const keysOf = ({ apiKey = [], apiKeyFile }: Pick<ApiValues, "apiKey" | "apiKeyFile">) =>
  Effect.gen(function* () {
    if (apiKeyFile === undefined) return apiKey
    const lines = (yield* readText("--api-key-file", apiKeyFile))
      .split("\n")
      .map((line) => line.trim())
    const keys = lines.filter((line) => line !== "" && !line.startsWith("#"))
    if (keys.length > 0) return [...apiKey, ...keys]
    return yield* Effect.fail(new UsageError(`--api-key-file: ${apiKeyFile} holds no key`))
  })

const makeFolder = (path: string): Effect.Effect<void, UsageError> =>
  Effect.try({
    try: () => {
      mkdirSync(path, { recursive: true })
    },
    catch: (cause) =>
      new UsageError(`--slot-save-path: the folder ${path} cannot be made: ${fileReason(cause)}`),
  })

/** Whoever reaches it may use it: that should be meant. */
const warnOpen = ({
  host,
  apiKeys,
}: {
  readonly host: string
  readonly apiKeys: ReadonlyArray<string>
}) => {
  if (apiKeys.length > 0 || /^(127\.|localhost$|::1$)/.test(host)) return
  noteLine(
    `warning: ${host} is more than this machine, and no key is asked for: whoever reaches the port can use the model. --api-key asks for one`,
  )
}
