/** What commands make of their flags: the native part, the cluster, plan options. */
import {
  Cluster,
  type Endpoint,
  formatEndpoint,
  type GgufFile,
  ggufInteger,
  ggufString,
  parseEndpoints,
  probe,
} from "@ggml-rpc/client"
import { dropEarly } from "@ggml-rpc/client/early"
import { librarySet, missingGpuPackage } from "@ggml-rpc/native"
import { ensureShim } from "@ggml-rpc/native/build"
import * as Effect from "effect/Effect"
import type { clusterFlags } from "../flags/cluster.ts"
import type { FlagValues } from "../flags/Flag.ts"
import type { contextFlags } from "../flags/model.ts"
import { noteEvent, noteText, waitEvent, waitLine } from "../newsView.ts"
import { printJson, type RunReport } from "../runReport.ts"
import { columnsOf, noteLine } from "../terminal.ts"
import { UsageError } from "../UsageError.ts"
import { wrap } from "../wrap.ts"
import { deviceChoice, ropeOf, weightOptionsOf } from "./placement.ts"
import { readCertificates, readToken } from "./secrets.ts"

/** A part of the native libraries is missing or cannot be built; the message says what to do. */
type NativeError = Error & { readonly _tag: string }

const isTagged = (error: unknown): error is NativeError => error instanceof Error && "_tag" in error

/** Builds the shim where it is not there yet, and points out a GPU that cannot be used. */
export const prepareNative: Effect.Effect<void, NativeError> = Effect.tryPromise({
  try: async () => {
    const set = librarySet()
    await ensureShim(set, (line) => {
      // What the engine has loaded is what is replaced now.
      dropEarly()
      noteLine(line)
    })
    const missing = missingGpuPackage(set)
    if (missing !== undefined) noteLine(missing)
  },
  catch: (error) => error,
}).pipe(Effect.catchAll((error) => (isTagged(error) ? Effect.fail(error) : Effect.die(error))))

export const endpointsOf = (rpc: string | undefined) =>
  Effect.tap(endpointsIn(rpc), (endpoints) =>
    Effect.sync(() => {
      const given = rpc?.split(",").filter((part) => part.trim() !== "").length ?? 0
      if (endpoints.length > 0 && given > endpoints.length) {
        noteLine("warning: --rpc names a server more than once; it is used once")
      }
    }),
  )

const endpointsIn = (rpc: string | undefined) =>
  rpc === undefined || rpc.trim() === "none"
    ? Effect.succeed<ReadonlyArray<Endpoint>>([])
    : Effect.flatMap(parseEndpoints(rpc), (endpoints) =>
        endpoints.length > 0
          ? Effect.succeed(endpoints)
          : Effect.fail(new UsageError("--rpc names no server; write host:port")),
      )

/** What `--remote-build` says of the servers. */
const withBuilds = (
  endpoints: ReadonlyArray<Endpoint>,
  remoteBuild: string | undefined,
): Effect.Effect<ReadonlyArray<Endpoint>, UsageError> =>
  Effect.gen(function* () {
    const counts = new Map<string, number>()
    for (const part of remoteBuild?.split(",") ?? []) {
      const [, server = "", count = ""] = /^(.*)=(\d+)$/.exec(part.trim()) ?? []
      const endpoint = endpoints.find((candidate) => formatEndpoint(candidate) === server)
      if (endpoint === undefined) {
        return yield* Effect.fail(
          new UsageError(
            `--remote-build takes A:PORT=OPS with a server of --rpc and a number of operations, not '${part}'`,
          ),
        )
      }
      counts.set(server, Number(count))
    }
    return endpoints.map((endpoint) => {
      const operationCount = counts.get(formatEndpoint(endpoint))
      return operationCount === undefined ? endpoint : { ...endpoint, operationCount }
    })
  })

export interface AccessValues {
  readonly tokenFile: string | undefined
  readonly tlsFingerprint: ReadonlyArray<string> | undefined
  readonly tlsCa: string | undefined
}

/** What servers are shown, and which ones are trusted. */
export const accessOf = ({ tokenFile, tlsFingerprint, tlsCa }: AccessValues) =>
  Effect.gen(function* () {
    const token = tokenFile === undefined ? undefined : yield* readToken(tokenFile)
    const wrong = tlsFingerprint?.find((text) => !/^([0-9a-f]{2}:?){32}$/i.test(text))
    if (wrong !== undefined) {
      return yield* Effect.fail(
        new UsageError(
          `--tls-fingerprint takes 64 hex digits, as 'serve --tls' prints, not '${wrong}'`,
        ),
      )
    }
    if (tlsFingerprint === undefined && tlsCa === undefined) return { token, tls: undefined }
    const ca = tlsCa === undefined ? {} : { ca: yield* readCertificates(tlsCa) }
    return { token, tls: { ...ca, ...(tlsFingerprint && { fingerprints: tlsFingerprint }) } }
  })

/** Fails for a server that cannot be used: before a long download, not behind it. */
export const checkServers = (values: { readonly rpc: string | undefined } & AccessValues) =>
  Effect.gen(function* () {
    // Without warnings: they come when the cluster is opened.
    const endpoints = yield* endpointsIn(values.rpc)
    const access = yield* accessOf(values)
    if (endpoints.length === 0) return
    yield* prepareNative
    yield* Effect.forEach(endpoints, (endpoint) => probe(endpoint, access), {
      concurrency: "unbounded",
      discard: true,
    })
  })

/** What a cluster tells by itself. */
type ClusterNews = Pick<RunReport, "waiting" | "note">

const newsTold = (isJson: boolean): ClusterNews =>
  isJson
    ? {
        waiting: (wait) => printJson(waitEvent(wait)),
        note: (text) => printJson(noteEvent(text)),
      }
    : {
        waiting: (wait) => noteLine(waitLine(wait)),
        note: (text) => noteLine(wrap(noteText(text), columnsOf(process.stderr)).join("\n")),
      }

/** `news`: instead of lines on stderr, or events with `--json`. */
export const openCluster = (
  values: {
    readonly json: boolean
    readonly rpc: string | undefined
    readonly remoteBuild: string | undefined
    readonly device: ReadonlyArray<string> | undefined
    /** Seconds. */
    readonly timeout: number | undefined
  } & AccessValues,
  news: ClusterNews = newsTold(values.json),
) =>
  Effect.gen(function* () {
    const endpoints = yield* withBuilds(yield* endpointsOf(values.rpc), values.remoteBuild)
    const access = yield* accessOf(values)
    const cluster = yield* Cluster.open({
      endpoints,
      ...access,
      localDevices: deviceChoice(values.device).localDevices,
      silenceMs: values.timeout === undefined ? undefined : values.timeout * 1000,
      onWait: news.waiting,
      onNote: news.note,
    })
    for (const { warning } of cluster.servers) {
      if (warning !== undefined) noteLine(`warning: ${warning}`)
    }
    return cluster
  })

/** Flags that say how a model is split and computed, as the planner takes them. */
export const planOptionsOf = (
  values: FlagValues<typeof contextFlags> &
    Pick<
      FlagValues<typeof clusterFlags>,
      "device" | "gpuLayers" | "splitMode" | "tensorSplit" | "threads" | "wire"
    >,
  gguf: GgufFile,
): Cluster.PlanOptions => ({
  contextSize: values.contextSize === 0 ? trainedContextSize(gguf) : values.contextSize,
  batchSize: values.batchSize,
  ubatchSize: values.ubatchSize,
  threads: values.threads,
  flashAttention: values.flashAttention,
  typeK: values.typeK,
  typeV: values.typeV,
  gpuLayers: values.gpuLayers,
  splitMode: values.splitMode,
  wire: values.wire,
  tensorSplit: values.tensorSplit,
  devices: deviceChoice(values.device).devices,
  kvOffload: values.kvOffload,
  rope: ropeOf(values),
  generatesOnly: true,
  ...weightOptionsOf(values),
})

/** 0 asks for all of it: less would not do, as in llama-cli. */
const trainedContextSize = (gguf: GgufFile): number | undefined => {
  const architecture = ggufString(gguf, "general.architecture")
  return ggufInteger(gguf, `${architecture}.context_length`)
}
