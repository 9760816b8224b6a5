/**
 * Servers and local devices as one place to run a model: open it from endpoints, plan, load, generate,
 * evaluate. Everything is scoped: closing the scope frees the remote buffers and the connections.
 *
 * @example
 * ```ts
 * const program = Effect.gen(function* () {
 *   const cluster = yield* Cluster.open({ endpoints: [{ host: "10.0.0.2", port: 50052 }] })
 *   const plan = yield* cluster.plan("model.gguf", { contextSize: 4096 })
 *   const model = yield* cluster.load(plan)
 *   yield* Stream.runForEach(model.generate("Once upon a time", { maxTokens: 64 }), (token) =>
 *     Effect.sync(() => process.stdout.write(token.text)),
 *   )
 * })
 * Effect.runPromise(Effect.scoped(program))
 * ```
 */
import { type GgufError, type GgufFile, ggufInteger, ggufString, layerBytes } from "@ggml-rpc/gguf"
import {
  defaultThreadCount,
  type KvTypeName,
  kvTypes,
  type ModelInfo,
  type SamplerOptions,
} from "@ggml-rpc/native/bindings/llama"
import type { Endpoint } from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import * as Engine from "./Engine.ts"
import type {
  EngineContextOptions,
  EngineDevice,
  EngineEvent,
  GenerateStats,
  LoadStats,
  MeasuredRow,
} from "./engine/messages.ts"
import type { ClusterError } from "./errors.ts"
import { ModelError, PlanError } from "./errors.ts"
import { type GeneratedToken, generateEach, tokenStream } from "./generate.ts"
import { loadGguf } from "./loadGguf.ts"
import {
  type Candidate,
  type DeviceUse,
  type Measurement,
  type Plan,
  type PlannerInput,
  planSteps,
} from "./planner/index.ts"

export type { GeneratedToken } from "./generate.ts"

export interface ClusterOptions {
  readonly endpoints: ReadonlyArray<Endpoint>
  /** Local devices by name; undefined: every local GPU. The local CPU always takes what is left. */
  readonly localDevices?: ReadonlyArray<string> | undefined
  /** For connecting and for the first answer; 5000. */
  readonly connectTimeoutMs?: number
}

/** Defaults are llama-cli's, by its names. */
export interface PlanOptions {
  /** Tokens; undefined: the model's training length, less if that does not fit. */
  readonly contextSize?: number | undefined
  readonly batchSize?: number | undefined
  readonly ubatchSize?: number | undefined
  readonly threads?: number | undefined
  readonly flashAttention?: "on" | "off" | "auto" | undefined
  readonly typeK?: KvTypeName | undefined
  readonly typeV?: KvTypeName | undefined
  /** Layers on devices, the output layer included; undefined: all that fit. */
  readonly gpuLayers?: number | undefined
  /** Proportions, one a device in the cluster's order; undefined: by free memory. */
  readonly tensorSplit?: ReadonlyArray<number> | undefined
  /** Map the file; true. */
  readonly mmap?: boolean | undefined
  /** Bytes left free on each device; 64 MiB. */
  readonly headroomBytes?: number | undefined
}

/** A plan, and what it was made for. */
export interface ModelPlan extends Plan {
  readonly path: string
  readonly architecture: string
  /** `general.name`, when the file has one. */
  readonly name?: string
  readonly modelBytes: number
  readonly context: EngineContextOptions
  readonly mmap: boolean
  /** Where each device is: its server, or `local`. Same order as `devices`. */
  readonly places: ReadonlyArray<string>
}

export interface LoadProgress {
  /** Weights that have reached their servers. */
  readonly doneBytes: number
  /** Of those, weights that a server had in its cache. */
  readonly cachedBytes: number
  readonly totalBytes: number
}

export interface GenerateOptions extends SamplerOptions {
  /** Default -1: until the model ends the text or the context is full. */
  readonly maxTokens?: number
}

/** What a model put out for given tokens. */
export interface Evaluation {
  /** Embeddings for models that compute no logits. */
  readonly kind: "logits" | "embeddings"
  readonly rowCount: number
  readonly columnCount: number
  /** rowCount × columnCount, row after row. */
  readonly values: Float32Array
}

/** A model on the devices of a cluster. */
export interface ClusterModel {
  readonly info: ModelInfo
  readonly plan: ModelPlan
  /** Tokens that the context holds. */
  readonly contextSize: number
  readonly stats: LoadStats
  /** What it really took, per device of the plan, and on this host. */
  readonly breakdown: Measurement
  readonly tokenize: (
    text: string,
    options?: { readonly addSpecial?: boolean; readonly parseSpecial?: boolean },
  ) => Effect.Effect<ReadonlyArray<number>, ClusterError>
  /** Text or token ids in, tokens out as they are computed. Ending the stream early stops the model. */
  readonly generate: (
    prompt: string | ReadonlyArray<number>,
    options?: GenerateOptions,
    onStats?: (stats: GenerateStats) => void,
  ) => Stream.Stream<GeneratedToken, ClusterError>
  /**
   * The same by a plain call a token, which takes a third of the stream's processor time. What `onToken` throws is a
   * defect and stops the model, as an interruption does.
   */
  readonly generateEach: (
    prompt: string | ReadonlyArray<number>,
    onToken: (token: GeneratedToken) => void,
    options?: GenerateOptions,
  ) => Effect.Effect<GenerateStats, ClusterError>
  /** Logits (or embeddings) of every one of these tokens. */
  readonly evaluate: (tokens: ReadonlyArray<number>) => Effect.Effect<Evaluation, ClusterError>
}

export interface ClusterDevice extends EngineDevice {
  /** Its server, or `local`. */
  readonly place: string
}

export interface Cluster {
  /** In the order of the split: servers as given, then local devices. Memory as of opening. */
  readonly devices: ReadonlyArray<ClusterDevice>
  /** The CPU of this host. */
  readonly host: EngineDevice
  readonly plan: (
    path: string,
    options?: PlanOptions,
  ) => Effect.Effect<ModelPlan, ClusterError | GgufError>
  /**
   * Puts the model where the plan says. Closing the scope frees it everywhere; until then the cluster
   * takes no other one, which is a `ModelError`.
   */
  readonly load: (
    plan: ModelPlan,
    onProgress?: (progress: LoadProgress) => void,
  ) => Effect.Effect<ClusterModel, ClusterError, Scope.Scope>
  /** Process id of the engine. */
  readonly enginePid: number
}

/** llama.cpp shrinks a context that was not asked for no further than this. */
const MIN_CONTEXT_SIZE = 4096
/** libllama rounds a context up to a multiple of this (llama-context.cpp, v0.5.0). */
const CONTEXT_STEP = 256
/** llama-cli's. */
const DEFAULT_BATCH_SIZE = 2048
const HEADROOM_BYTES = 64 * 1024 * 1024

/** Architectures whose graphs end in embeddings, not logits (llama.cpp v0.5.0 src/models). */
const embeddingArchitectures: ReadonlySet<string> = new Set([
  "bert",
  "eurobert",
  "gemma-embedding",
  "jina-bert-v2",
  "jina-bert-v3",
  "llama-embed",
  "modern-bert",
  "neo-bert",
  "nomic-bert",
  "nomic-bert-moe",
  "t5encoder",
  "wavtokenizer-dec",
])

/** Attention to both sides, or an encoder: all tokens must be in one step (llama.cpp v0.5.0 src/models). */
const wholeBatchArchitectures: ReadonlySet<string> = new Set([
  ...embeddingArchitectures,
  "dream",
  "llada",
  "llada-moe",
  "rnd1",
  "t5",
])

const needsWholeBatch = (gguf: GgufFile, architecture: string): boolean => {
  const causal = gguf.metadata.get(`${architecture}.attention.causal`)
  return (
    wholeBatchArchitectures.has(architecture) || (causal?.type === "bool" && causal.value === false)
  )
}

const contextOptions = (gguf: GgufFile, options: PlanOptions): EngineContextOptions => {
  const threads = options.threads ?? defaultThreadCount()
  const architecture = ggufString(gguf, "general.architecture") ?? ""
  const trained = ggufInteger(gguf, `${architecture}.context_length`) ?? MIN_CONTEXT_SIZE
  const contextSize = Math.ceil((options.contextSize || trained) / CONTEXT_STEP) * CONTEXT_STEP
  const wholeBatch = needsWholeBatch(gguf, architecture)
  const ubatchSize =
    options.ubatchSize ??
    (wholeBatch ? (options.batchSize ?? Math.min(contextSize, DEFAULT_BATCH_SIZE)) : 512)
  const batchSize = wholeBatch ? ubatchSize : (options.batchSize ?? DEFAULT_BATCH_SIZE)
  return {
    contextSize,
    batchSize,
    ubatchSize: Math.min(batchSize, ubatchSize),
    threads,
    threadsBatch: threads,
    flashAttention: { on: 1, off: 0, auto: -1 }[options.flashAttention ?? "auto"] as -1 | 0 | 1,
    typeK: kvTypes[options.typeK ?? "f16"],
    typeV: kvTypes[options.typeV ?? "f16"],
    embeddings: embeddingArchitectures.has(architecture),
    wholeBatch,
  }
}

const nothing: DeviceUse = { weightBytes: 0, contextBytes: 0, computeBytes: 0 }

/** ggml's names of host buffers whose tensors lie as in the file. */
const isFileLayout = (bufferTypeName: string): boolean => /^CPU(_Mapped)?$/.test(bufferTypeName)

/** Sums rows of buffer types into what each device and this host take. */
const measurementOf = (rows: ReadonlyArray<MeasuredRow>, deviceCount: number): Measurement => {
  const add = (use: DeviceUse, row: MeasuredRow): DeviceUse => ({
    weightBytes: use.weightBytes + row.modelBytes,
    contextBytes: use.contextBytes + row.contextBytes,
    computeBytes: use.computeBytes + row.computeBytes,
  })
  const of = (device: number): DeviceUse =>
    rows.filter((row) => row.device === device).reduce(add, nothing)
  return {
    devices: Array.from({ length: deviceCount }, (_, device) => of(device)),
    host: rows.filter((row) => row.device < 0).reduce(add, nothing),
    hostFileLayoutBytes: rows
      .filter((row) => row.device < 0 && isFileLayout(row.bufferTypeName))
      .reduce((sum, row) => sum + row.modelBytes, 0),
  }
}

/** Who has a model on the cluster, or is loading one: one load at a time. */
interface Place {
  holder: { readonly path: string } | undefined
}

/** Connects to all servers and starts the engine. */
export const open = (options: ClusterOptions): Effect.Effect<Cluster, ClusterError, Scope.Scope> =>
  Effect.gen(function* () {
    const engine = yield* Engine.make
    const { event: opened } = yield* engine.request({
      type: "open",
      endpoints: options.endpoints,
      connectTimeoutMs: options.connectTimeoutMs ?? 5000,
      ...(options.localDevices === undefined ? {} : { localDevices: options.localDevices }),
    })
    const place: Place = { holder: undefined }
    const devices = opened.devices.map((device) => ({
      ...device,
      place: device.endpoint ?? "local",
    }))
    return {
      devices,
      host: opened.host,
      enginePid: engine.pid,
      plan: (path, planOptions = {}) => planModel(engine, devices, path, planOptions),
      load: (plan, onProgress) => loadModel(engine, place, plan, onProgress ?? (() => {})),
    } satisfies Cluster
  })

const planModel = (
  engine: Engine.Engine,
  devices: ReadonlyArray<ClusterDevice>,
  path: string,
  options: PlanOptions,
): Effect.Effect<ModelPlan, ClusterError | GgufError> =>
  Effect.gen(function* () {
    const gguf = yield* loadGguf(path)
    const { event: memory } = yield* engine.request({ type: "memory" })
    const context = contextOptions(gguf, options)
    const mmap = options.mmap ?? true
    const layers = layerBytes(gguf)
    const input: PlannerInput = {
      devices: memory.devices,
      host: memory.host,
      unitBytes: [...layers.layers, layers.outputBytes],
      tensorSplit: options.tensorSplit,
      gpuLayers:
        options.gpuLayers === undefined || options.gpuLayers < 0 ? undefined : options.gpuLayers,
      contextSize: context.contextSize,
      minContextSize: options.contextSize
        ? undefined
        : Math.min(MIN_CONTEXT_SIZE, context.contextSize),
      headroomBytes: options.headroomBytes ?? HEADROOM_BYTES,
      mapsWeights: mmap,
    }
    const measure = (candidate: Candidate) =>
      Effect.map(
        engine.request({
          type: "measure",
          path,
          placement: { unitCounts: candidate.unitCounts },
          context: { ...context, contextSize: candidate.contextSize },
        }),
        ({ event }) => measurementOf(event.rows, memory.devices.length),
      )
    const plan = yield* runPlanner(input, measure)
    const name = ggufString(gguf, "general.name")
    return {
      ...plan,
      path,
      architecture: ggufString(gguf, "general.architecture") ?? "unknown",
      ...(name === undefined ? {} : { name }),
      modelBytes: gguf.tensors.reduce((sum, tensor) => sum + tensor.sizeBytes, 0),
      context: { ...context, contextSize: plan.contextSize },
      mmap,
      places: devices.map((device) => device.place),
    }
  })

const runPlanner = <E>(
  input: PlannerInput,
  measure: (candidate: Candidate) => Effect.Effect<Measurement, E>,
): Effect.Effect<Plan, E | PlanError> =>
  Effect.gen(function* () {
    const steps = planSteps(input)
    const advance = (measured?: Measurement) =>
      Effect.try({
        try: () => (measured === undefined ? steps.next() : steps.next(measured)),
        catch: (error) => error,
      }).pipe(
        Effect.catchAll((error) =>
          error instanceof PlanError ? Effect.fail(error) : Effect.die(error),
        ),
      )
    let step = yield* advance()
    while (!step.done) step = yield* advance(yield* measure(step.value))
    return step.value
  })

/**
 * Asked of the engine by plain calls: a small model is loaded in the time that the host takes to run a chain of
 * effects for the first time.
 */
const loadModel = (
  engine: Engine.Engine,
  place: Place,
  plan: ModelPlan,
  onProgress: (progress: LoadProgress) => void,
): Effect.Effect<ClusterModel, ClusterError, Scope.Scope> =>
  Effect.scopeWith((scope) => {
    const { path } = plan
    const holder = { path }
    const leave = (): void => {
      if (place.holder === holder) place.holder = undefined
    }
    const release = Effect.suspend(() => {
      if (place.holder !== holder) return Effect.void
      // What runs now is this load, or something on this model; the engine may also be gone already,
      // and then so is the model.
      return engine.cancel.pipe(
        Effect.zipRight(engine.settle(engine.request({ type: "unload" }))),
        Effect.ensuring(Effect.sync(leave)),
      )
    })
    const totalBytes = plan.devices.reduce(
      (sum, device, index) => sum + (plan.places[index] === "local" ? 0 : device.weightBytes),
      0,
    )
    const load = Effect.async<ClusterModel, ClusterError>((resume) => {
      // What the caller's function throws is a defect; the finalizer stops the load.
      const report = (doneBytes: number, cachedBytes: number): void => {
        try {
          onProgress({ doneBytes, cachedBytes, totalBytes })
        } catch (error) {
          resume(Effect.die(error))
        }
      }
      if (place.holder !== undefined) {
        const detail = `the cluster holds ${place.holder.path} already; close its scope first, or open another cluster.`
        resume(Effect.fail(new ModelError({ path, during: "load", detail })))
        return
      }
      place.holder = holder
      const giveUp = engine.begin(
        {
          type: "load",
          path,
          placement: { unitCounts: plan.devices.map((device) => device.unitCount) },
          context: plan.context,
          mmap: plan.mmap,
        },
        (event) => {
          if (event.type === "progress") report(event.doneBytes, event.cachedBytes)
        },
        (end) => {
          if (Either.isLeft(end)) {
            // The engine keeps nothing of a load that failed.
            leave()
            resume(Effect.fail(end.left))
            return
          }
          const { event: loaded } = end.right
          const { remoteWeightBytes, cachedWeightBytes } = loaded.stats
          if (remoteWeightBytes > 0) report(remoteWeightBytes, cachedWeightBytes)
          resume(Effect.succeed(modelOf(engine, plan, loaded)))
        },
      )
      return Effect.suspend(() => {
        if (!giveUp()) return release
        leave()
        return Effect.void
      })
    })
    // The finalizer comes first: it does nothing before the place is taken, and nothing can come between.
    return Effect.zipRight(Scope.addFinalizer(scope, release), load)
  })

const modelOf = (
  engine: Engine.Engine,
  plan: ModelPlan,
  loaded: EngineEvent & { type: "loaded" },
): ClusterModel => {
  const tokenize: ClusterModel["tokenize"] = (text, options = {}) =>
    Effect.map(
      engine.request({
        type: "tokenize",
        text,
        addSpecial: options.addSpecial ?? true,
        parseSpecial: options.parseSpecial ?? true,
      }),
      ({ event }) => event.tokens,
    )
  const generate: ClusterModel["generateEach"] = (prompt, onToken, options = {}) => {
    const { maxTokens = -1, ...sampler } = options
    return Effect.flatMap(
      typeof prompt === "string" ? tokenize(prompt) : Effect.succeed(prompt),
      (tokens) => generateEach(engine, { type: "generate", tokens, maxTokens, sampler }, onToken),
    )
  }
  return {
    info: loaded.info,
    plan,
    contextSize: loaded.contextSize,
    stats: loaded.stats,
    breakdown: measurementOf(loaded.rows, plan.devices.length),
    tokenize,
    generate: (prompt, options, onStats = () => {}) =>
      tokenStream((onToken) => generate(prompt, onToken, options), onStats),
    generateEach: generate,
    evaluate: (tokens) =>
      Effect.map(engine.request({ type: "evaluate", tokens }), ({ event, data }) => ({
        kind: event.kind,
        rowCount: event.rowCount,
        columnCount: event.columnCount,
        // A copy: the bytes may lie at an odd address of a larger block.
        values: new Float32Array(new Uint8Array(data).buffer),
      })),
  }
}
