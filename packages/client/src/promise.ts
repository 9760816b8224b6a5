/// <reference lib="esnext.disposable" preserve="true" />
/**
 * The cluster by promises, for programs that do not use Effect: imported as `@ggml-rpc/client/promise`. What fails rejects
 * with the same error classes, and what is aborted with the signal's reason.
 *
 * @example
 * ```ts
 * import { openCluster } from "@ggml-rpc/client/promise"
 *
 * await using cluster = await openCluster(["10.0.0.2:50052", "10.0.0.3:50052"])
 * const model = await cluster.load(await cluster.plan("model.gguf", { contextSize: 4096 }))
 * for await (const token of model.generate("Once upon a time", { maxTokens: 64 })) {
 *   process.stdout.write(token.text)
 * }
 * ```
 */
import type { ModelInfo } from "@ggml-rpc/native/bindings/llama"
import { ensureShim } from "@ggml-rpc/native/build"
import { type Endpoint, parseEndpoint } from "@ggml-rpc/protocol"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Effects from "./Cluster.ts"
import type { EngineDevice, EngineServer, GenerateStats, LoadStats } from "./engine/messages.ts"
import type { GeneratedToken } from "./generateEach.ts"
import type {
  ClusterModel,
  Evaluation,
  GenerateOptions,
  LoadProgress,
  SlotsState,
  TokenizeOptions,
} from "./Model.ts"
import type { ModelPlan, PlanOptions } from "./ModelPlan.ts"
import type { Measurement } from "./planner/index.ts"

export { GgufError } from "@ggml-rpc/gguf"
export { type Endpoint, EndpointError } from "@ggml-rpc/protocol"
export type { ClusterDevice } from "./Cluster.ts"
export type {
  EngineDevice,
  EngineServer,
  GenerateStats,
  LoadStats,
  StopReason,
} from "./engine/messages.ts"
export * from "./errors.ts"
export type { GeneratedToken } from "./generateEach.ts"
export type {
  Evaluation,
  GenerateOptions,
  LoadProgress,
  SlotsState,
  TokenizeOptions,
} from "./Model.ts"
export type { ModelPlan, PlanOptions } from "./ModelPlan.ts"

/** What every call that takes time takes. */
export interface Abortable {
  /** Ends the call, which then rejects with `signal.reason`, an `AbortError` unless it was given another. */
  readonly signal?: AbortSignal | undefined
}

export interface OpenOptions extends Omit<Effects.ClusterOptions, "endpoints">, Abortable {
  /** Hears that the native part is built, where none came with the packages: half a minute, once. */
  readonly onNotice?: (line: string) => void
}

export interface LoadOptions extends Abortable {
  /** Called as the weights go out, in bytes. */
  readonly onProgress?: (progress: LoadProgress) => void
}

export interface GenerateCallOptions extends GenerateOptions, Abortable {
  /** Called once, after the last token, with counts and milliseconds. */
  readonly onStats?: (stats: GenerateStats) => void
}

/** A model on the devices of a cluster; `close` frees it everywhere. */
export interface Model extends AsyncDisposable {
  readonly info: ModelInfo
  readonly plan: ModelPlan
  /** Tokens that the context holds. */
  readonly contextSize: number
  readonly stats: LoadStats
  /** What it really took, per device of the plan, and on this host. */
  readonly breakdown: Measurement
  /**
   * Text or token ids in, tokens out as they are computed. Leaving the loop stops the text. So many at once as there are
   * slots, others after them in the order of their first `next`.
   *
   * @throws {ClusterError} from the loop
   */
  readonly generate: (
    prompt: string | ReadonlyArray<number>,
    options?: GenerateCallOptions,
  ) => AsyncGenerator<GeneratedToken, void, undefined>
  /** The whole text at once, without the prompt. */
  readonly complete: (
    prompt: string | ReadonlyArray<number>,
    options?: GenerateCallOptions,
  ) => Promise<string>
  /** Token ids of a text. `addSpecial` (true) adds the model's begin token, `parseSpecial` (true) reads `<|…|>` as such. */
  readonly tokenize: (
    text: string,
    options?: TokenizeOptions & Abortable,
  ) => Promise<ReadonlyArray<number>>
  /** Logits (or embeddings) of every one of these tokens. */
  readonly evaluate: (tokens: ReadonlyArray<number>, options?: Abortable) => Promise<Evaluation>
  /** The text of tokens, special ones by their names. */
  readonly detokenize: (tokens: ReadonlyArray<number>, options?: Abortable) => Promise<string>
  /** One embedding of a text, or a classifier's scores, by a model that was loaded for embeddings. */
  readonly embed: (tokens: ReadonlyArray<number>, options?: Abortable) => Promise<Float32Array>
  /** What is at work. */
  readonly slots: () => Promise<SlotsState>
  /** Writes what a slot's cache holds to a file, once no text is at work there; how many tokens that are. */
  readonly saveSlot: (slot: number, path: string) => Promise<number>
  /** Reads it again, for the same model on whatever devices. */
  readonly restoreSlot: (slot: number, path: string) => Promise<number>
  /** Empties a slot; how many tokens it had. */
  readonly eraseSlot: (slot: number) => Promise<number>
  /** Frees it; a second call does nothing. */
  readonly close: () => Promise<void>
}

/** Servers and local devices as one place to run a model; `close` frees all that is on them. */
export interface PromiseCluster extends AsyncDisposable {
  /** In the order given. */
  readonly servers: ReadonlyArray<EngineServer>
  /** In the order of the split: servers as given, then local devices. Memory in bytes, as of opening. */
  readonly devices: ReadonlyArray<Effects.ClusterDevice>
  /** The CPU of this host. */
  readonly host: EngineDevice
  /** What devices and host have free now. */
  readonly memory: (options?: Abortable) => Promise<Effects.ClusterMemory>
  /**
   * Where the model would go, without loading it.
   *
   * @throws {GgufError | PlanError | UnsupportedOpError | ClusterError}
   */
  readonly plan: (path: string, options?: PlanOptions & Abortable) => Promise<ModelPlan>
  /** Token ids of a text, by the vocabulary in a model's file: nothing else of it is loaded. */
  readonly tokenize: (
    path: string,
    text: string,
    options?: TokenizeOptions & Abortable,
  ) => Promise<ReadonlyArray<number>>
  /**
   * Puts the model where the plan says; one at a time.
   *
   * @throws {ModelError | RemoteMemoryError | ClusterError}
   */
  readonly load: (plan: ModelPlan, options?: LoadOptions) => Promise<Model>
  /** Frees the model and the connections; a second call does nothing. */
  readonly close: () => Promise<void>
}

/** Rejects with the error itself, not with a wrapper of it; a defect with what was thrown. */
const run = async <A, E>(effect: Effect.Effect<A, E>, signal?: AbortSignal): Promise<A> => {
  signal?.throwIfAborted()
  const exit = await Effect.runPromiseExit(effect, signal === undefined ? {} : { signal })
  if (Exit.isSuccess(exit)) return exit.value
  if (signal?.aborted && Cause.isInterrupted(exit.cause)) throw signal.reason
  throw Cause.squash(exit.cause)
}

/** Closes a scope once; what comes later waits for the same end. */
const closer = (scope: Scope.CloseableScope): (() => Promise<void>) => {
  let closed: Promise<void> | undefined
  return () => {
    closed ??= run(Scope.close(scope, Exit.void))
    return closed
  }
}

/** Runs it in a scope of its own, which ends at once where it fails. */
const acquire = <A, E>(
  scope: Scope.CloseableScope,
  effect: Effect.Effect<A, E, Scope.Scope>,
  signal: AbortSignal | undefined,
): Promise<A> =>
  run(
    Effect.onError(Scope.extend(effect, scope), (cause) =>
      Scope.close(scope, Exit.failCause(cause)),
    ),
    signal,
  )

/**
 * Connects to all servers and starts the engine, a process of its own.
 *
 * @param endpoints texts such as `10.0.0.2:50052`, `[::1]:50052`, `tls://box:50052`, or what `parseEndpoint` makes of them
 * @throws {EndpointError | ConnectError | HandshakeError | AccessError | EngineStartError}
 */
export const openCluster = async (
  endpoints: ReadonlyArray<string | Endpoint>,
  { signal, onNotice, ...options }: OpenOptions = {},
): Promise<PromiseCluster> => {
  const parsed = endpoints.map((endpoint) =>
    typeof endpoint === "string" ? parseEndpoint(endpoint) : endpoint,
  )
  await ensureShim(undefined, onNotice)
  const scope = await run(Scope.make())
  const cluster = await acquire(scope, Effects.open({ ...options, endpoints: parsed }), signal)
  const close = closer(scope)
  return {
    servers: cluster.servers,
    devices: cluster.devices,
    host: cluster.host,
    memory: ({ signal: memorySignal } = {}) => run(cluster.memory, memorySignal),
    plan: (path, { signal: planSignal, ...planOptions } = {}) =>
      run(cluster.plan(path, planOptions), planSignal),
    tokenize: (path, text, { signal: textSignal, ...textOptions } = {}) =>
      run(cluster.tokenize(path, text, textOptions), textSignal),
    load: async (plan, { signal: loadSignal, onProgress } = {}) => {
      const inner = await run(Scope.fork(scope, ExecutionStrategy.sequential))
      return modelOf(
        await acquire(inner, cluster.load(plan, onProgress), loadSignal),
        closer(inner),
      )
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

const modelOf = (model: ClusterModel, close: () => Promise<void>): Model => {
  const generate: Model["generate"] = (prompt, options = {}) => tokens(model, prompt, options)
  return {
    info: model.info,
    plan: model.plan,
    contextSize: model.contextSize,
    stats: model.stats,
    breakdown: model.breakdown,
    generate,
    complete: async (prompt, options) => {
      let text = ""
      for await (const token of generate(prompt, options)) text += token.text
      return text
    },
    tokenize: (text, { signal, ...options } = {}) => run(model.tokenize(text, options), signal),
    evaluate: (ids, { signal } = {}) => run(model.evaluate(ids), signal),
    detokenize: (ids, { signal } = {}) => run(model.detokenize(ids), signal),
    embed: (ids, { signal } = {}) => run(model.embed(ids), signal),
    slots: () => run(model.slots),
    saveSlot: (slot, path) => run(model.saveSlot(slot, path)),
    restoreSlot: (slot, path) => run(model.restoreSlot(slot, path)),
    eraseSlot: (slot) => run(model.eraseSlot(slot)),
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** Tokens wait here while the loop's body runs: the engine does not. */
async function* tokens(
  model: ClusterModel,
  prompt: string | ReadonlyArray<number>,
  { signal, onStats, ...options }: GenerateCallOptions,
): AsyncGenerator<GeneratedToken, void, undefined> {
  signal?.throwIfAborted()
  const waiting: GeneratedToken[] = []
  let wake = (): void => {}
  const receive = (token: GeneratedToken): void => {
    waiting.push(token)
    wake()
  }
  const fiber = Effect.runFork(model.generateEach(prompt, receive, options))
  let exit: Exit.Exit<GenerateStats, unknown> | undefined
  fiber.addObserver((ended) => {
    exit = ended
    wake()
  })
  const abort = (): void => wake()
  signal?.addEventListener("abort", abort)
  try {
    for (;;) {
      signal?.throwIfAborted()
      const token = waiting.shift()
      if (token !== undefined) yield token
      else if (exit !== undefined) break
      else await new Promise<void>((resolve) => (wake = resolve))
    }
    if (Exit.isFailure(exit)) throw Cause.squash(exit.cause)
    onStats?.(exit.value)
  } finally {
    signal?.removeEventListener("abort", abort)
    await Effect.runPromise(Fiber.interrupt(fiber))
  }
}
