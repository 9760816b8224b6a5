/** `ggml-rpc verify`: does this cluster compute what this machine's CPU computes? */
import { basename } from "node:path"
import {
  Cluster,
  type ClusterError,
  type EndpointError,
  type GgufError,
  type GgufFile,
  loadModelHeader,
} from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { compareOutputs, spreadTokens } from "../compare.ts"
import {
  type CertificateFileError,
  OutputShapeError,
  ReportedError,
  type TokenFileError,
  TokenRangeError,
} from "../errors.ts"
import type { CommandValues } from "../flags/commands.ts"
import { withJsonErrors } from "../jsonErrors.ts"
import type { UsageError } from "../UsageError.ts"
import { type Verified, type VerifyReport, verifyReport } from "../verifyReport.ts"
import { endingEngineFirst } from "./endingEngineFirst.ts"
import { checkServers, openCluster, prepareNative } from "./inputs.ts"
import { givenModels, modelPath } from "./modelSources.ts"
import { deviceChoice } from "./placement.ts"

type VerifyValues = CommandValues<"verify">

const DEFAULT_TOKEN_COUNT = 32
/** Context sizes are multiples of it in llama.cpp. */
const CONTEXT_STEP = 256

export const verify = (values: VerifyValues) =>
  withJsonErrors(
    Effect.scoped(
      Effect.gen(function* () {
        const given = yield* givenModels(values)
        const paths = yield* Effect.forEach(given, (model) =>
          modelPath(model, values, {}, checkServers(values)),
        )
        yield* prepareNative
        const reference = yield* reopening(Cluster.open({ endpoints: [], localDevices: [] }))
        const cluster = yield* reopening(openCluster(values))
        const report = verifyReport({
          isJson: values.json,
          names: paths.map((path) => basename(path)),
          tolerance: values.tolerance,
          isBf16: values.wire === "bf16",
        })
        report.begin(yield* cluster.use((opened) => Effect.succeed(opened.devices)))
        const passed = yield* Effect.forEach(paths, (path) =>
          verifyOne(path, values, reference, cluster, report),
        )
        report.end(passed.filter(Boolean).length, paths.length)
        if (!passed.every(Boolean)) return yield* new ReportedError({ exitCode: 1 })
      }),
    ),
    values.json,
  )

/** Compares one model; whatever goes wrong with it is a line of the report. */
const verifyOne = (
  path: string,
  values: VerifyValues,
  reference: Reopening,
  cluster: Reopening,
  report: VerifyReport,
): Effect.Effect<boolean> =>
  Effect.map(Effect.either(compareOn(path, values, reference, cluster)), (result) =>
    Either.isRight(result)
      ? report.compared(path, result.right)
      : report.failed(path, result.left as Error & { readonly _tag: string }),
  )

const compareOn = (path: string, values: VerifyValues, reference: Reopening, cluster: Reopening) =>
  Effect.gen(function* () {
    const gguf = yield* loadModelHeader(path)
    const tokens = yield* tokensFor(gguf, values.tokens)
    // Encoders need all tokens in one step.
    const batchSize = Math.ceil(tokens.length / CONTEXT_STEP) * CONTEXT_STEP
    const options: Cluster.PlanOptions = {
      contextSize: tokens.length,
      batchSize,
      ubatchSize: batchSize,
      threads: values.threads,
    }
    const expected = yield* evaluate(reference, path, options, tokens)
    const placed: Cluster.PlanOptions = {
      ...options,
      devices: deviceChoice(values.device).devices,
      splitMode: values.splitMode,
      tensorSplit: values.tensorSplit,
      gpuLayers: values.gpuLayers,
    }
    const found = yield* evaluate(cluster, path, placed, tokens)
    // Sums of parts are rounded otherwise than those of whole rows; by ggml they are what they have to be.
    const sums = found.isCut
      ? yield* evaluate(cluster, path, { ...placed, sums: "ggml" }, tokens)
      : undefined
    // What rounding costs is told by itself, and hides nothing of what the devices compute.
    const rounded =
      values.wire === "bf16"
        ? yield* evaluate(cluster, path, { ...placed, wire: values.wire }, tokens)
        : undefined
    for (const other of [found, sums, rounded].filter((each) => each !== undefined)) {
      if (expected.values.length !== other.values.length) {
        return yield* new OutputShapeError({ path })
      }
    }
    return {
      kind: expected.kind,
      tokenCount: tokens.length,
      comparison: compareOutputs(expected, found),
      ...(sums && { sums: compareOutputs(sums, found) }),
      ...(rounded && { wire: compareOutputs(found, rounded) }),
    } satisfies Verified
  })

const tokensFor = (
  gguf: GgufFile,
  wanted: ReadonlyArray<number> | undefined,
): Effect.Effect<ReadonlyArray<number>, TokenRangeError> => {
  // The rows of the embedding, which is there with and without a tokenizer.
  const vocabSize = gguf.tensors.find(({ name }) => name === "token_embd.weight")?.ne[1]
  if (wanted === undefined) {
    return Effect.succeed(spreadTokens(DEFAULT_TOKEN_COUNT, vocabSize ?? DEFAULT_TOKEN_COUNT))
  }
  const outside = vocabSize === undefined ? undefined : wanted.find((token) => token >= vocabSize)
  return outside === undefined
    ? Effect.succeed(wanted)
    : Effect.fail(
        new TokenRangeError({ path: gguf.path, token: outside, vocabSize: vocabSize ?? 0 }),
      )
}

const evaluate = (
  on: Reopening,
  path: string,
  options: Cluster.PlanOptions,
  tokens: ReadonlyArray<number>,
) =>
  on.use((cluster) =>
    Effect.scoped(
      Effect.gen(function* () {
        const plan = yield* cluster.plan(path, options)
        const model = yield* cluster.load(plan)
        return { ...(yield* model.evaluate(tokens)), isCut: plan.splitMode === "tensor" }
      }),
    ),
  )

type OpenError = CertificateFileError | ClusterError | EndpointError | TokenFileError | UsageError

/** A cluster that is opened anew after its engine or a connection died. */
interface Reopening {
  readonly use: <A>(
    call: (cluster: Cluster.Cluster) => Effect.Effect<A, ClusterError | GgufError>,
  ) => Effect.Effect<A, OpenError | GgufError>
}

interface Opened {
  readonly cluster: Cluster.Cluster
  readonly scope: Scope.CloseableScope
}

/** Errors after which a cluster is of no use any more. */
const endings: ReadonlySet<string> = new Set([
  "EngineEndedError",
  "ServerLostError",
  "ServerTimeoutError",
  "UnsupportedOpError",
])

/** Opens at once, so that a server that is not there fails the command and not every file. */
const reopening = (
  open: Effect.Effect<Cluster.Cluster, OpenError, Scope.Scope>,
): Effect.Effect<Reopening, OpenError, Scope.Scope> =>
  Effect.gen(function* () {
    const outer = yield* Effect.scope
    let opened: Opened | undefined
    const get = Effect.gen(function* () {
      if (opened !== undefined) return opened
      const scope = yield* Scope.fork(outer, { _tag: "Sequential" })
      const cluster = yield* Scope.extend(open, scope)
      opened = { cluster, scope }
      return opened
    })
    const drop = Effect.suspend(() => {
      const scope = opened?.scope
      opened = undefined
      return scope === undefined ? Effect.void : Scope.close(scope, Exit.void)
    })
    yield* get
    return {
      use: (call) =>
        Effect.flatMap(get, ({ cluster }) =>
          Effect.tapError(endingEngineFirst(cluster, call(cluster)), (error) =>
            endings.has(error._tag) ? drop : Effect.void,
          ),
        ),
    }
  })
