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

import type { GgufError } from "@ggml-rpc/gguf"
import { type Endpoint, formatEndpoint } from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { closeAll, openTls, type TlsTrust, usesTls } from "./connection/tls.ts"
import * as EngineHost from "./EngineHost.ts"
import type { EngineDevice, EngineServer, LinkSpeed, LinkTraffic } from "./engine/messages.ts"
import type { ClusterError } from "./errors.ts"
import {
  type ClusterModel,
  type LoadProgress,
  loadModel,
  type Place,
  type TokenizeOptions,
  tokenize,
} from "./Model.ts"
import { type ModelPlan, type PlanOptions, planModel } from "./ModelPlan.ts"
import { type ServerWait, watchWaits } from "./serverWaits.ts"

export type { GeneratedToken } from "./generateEach.ts"
export type {
  ClusterModel,
  Evaluation,
  GenerateOptions,
  LoadProgress,
  SlotsState,
  TokenizeOptions,
} from "./Model.ts"
export type {
  DraftModelOptions,
  ModelPlan,
  PlanOptions,
  Pooling,
  Speculation,
} from "./ModelPlan.ts"
export type { ServerWait } from "./serverWaits.ts"

export interface ClusterOptions {
  readonly endpoints: ReadonlyArray<Endpoint>
  /** Local devices by name; undefined: every local GPU. The local CPU always takes what is left. */
  readonly localDevices?: ReadonlyArray<string> | undefined
  /** Whose certificates to trust: servers are spoken to by TLS then, but for those whose endpoint says otherwise. */
  readonly tls?: TlsTrust | undefined
  /** Secret that servers with a token are shown that this client has; it is told to none. */
  readonly token?: string | undefined
  /** For connecting and for the first answer; 5000. */
  readonly connectTimeoutMs?: number
  /**
   * How long a server may move no byte while it is waited for, which is a `ServerTimeoutError` then; 0, the default: for ever. A
   * server that computes a large batch is silent, too.
   */
  readonly silenceMs?: number | undefined
  /** Hears of servers that are waited for long: one that computes slowly, or hangs. */
  readonly onWait?: ((wait: ServerWait) => void) | undefined
  /** Hears what makes a model slower than it could be on these devices, as sentences, each once. */
  readonly onNote?: ((text: string) => void) | undefined
}

export interface ClusterDevice extends EngineDevice {
  /** Its server, or `local`. */
  readonly place: string
}

/** Memory of all devices, in their order, and of this host; and what has crossed the links to servers. */
export interface ClusterMemory {
  readonly devices: ReadonlyArray<EngineDevice>
  readonly host: EngineDevice
  readonly links: ReadonlyArray<LinkTraffic>
  /** When that was, by `performance.now()`. */
  readonly atMs: number
}

export interface Cluster {
  /** In the order given. */
  readonly servers: ReadonlyArray<EngineServer>
  /** In the order of the split: servers as given, then local devices. Memory as of opening. */
  readonly devices: ReadonlyArray<ClusterDevice>
  /** The CPU of this host. */
  readonly host: EngineDevice
  /** What there is free now. It is asked between two batches, where a model is at work. */
  readonly memory: Effect.Effect<ClusterMemory, ClusterError>
  /** What has crossed the links to servers, in their order; nobody is asked for it. */
  readonly traffic: Effect.Effect<ReadonlyArray<LinkTraffic>, ClusterError>
  /**
   * How fast the ways to the servers are, in their order: some questions, and some data into a buffer and back, one server after the
   * other. It waits for the end of texts at work, and takes a fraction of a second a server, or longer over a slow link.
   */
  readonly linkSpeeds: Effect.Effect<ReadonlyArray<LinkSpeed>, ClusterError>
  readonly plan: (
    path: string,
    options?: PlanOptions,
  ) => Effect.Effect<ModelPlan, ClusterError | GgufError>
  /** The tokens of a text, by the vocabulary in a model's file: nothing else of it is loaded. */
  readonly tokenize: (
    path: string,
    text: string,
    options?: TokenizeOptions,
  ) => Effect.Effect<ReadonlyArray<number>, ClusterError>
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

/** Connects to all servers and starts the engine. */
export const open = (options: ClusterOptions): Effect.Effect<Cluster, ClusterError, Scope.Scope> =>
  Effect.gen(function* () {
    const connectTimeoutMs = options.connectTimeoutMs ?? 5000
    const secured = yield* Effect.forEach(options.endpoints, (endpoint) =>
      usesTls(endpoint, options.tls)
        ? openTls(endpoint, options.tls ?? {}, connectTimeoutMs)
        : Effect.succeed(undefined),
    )
    const descriptors = secured.filter((descriptor) => descriptor !== undefined)
    const engine = yield* Effect.ensuring(
      EngineHost.make(descriptors),
      Effect.sync(() => closeAll(descriptors)),
    )
    const { onNote, onWait, endpoints } = options
    if (onNote !== undefined) engine.listenToNotes(onNote)
    if (onWait !== undefined) {
      yield* watchWaits(engine.waiting, endpoints.map(formatEndpoint), onWait)
    }
    const { event: opened } = yield* engine.request({
      type: "open",
      endpoints: options.endpoints.map((endpoint, index) => {
        const at = descriptors.indexOf(secured[index] ?? -1)
        return at < 0 ? endpoint : { ...endpoint, descriptor: EngineHost.FIRST_DESCRIPTOR + at }
      }),
      connectTimeoutMs,
      silenceMs: options.silenceMs ?? 0,
      ...(options.token === undefined ? {} : { token: options.token }),
      ...(options.localDevices === undefined ? {} : { localDevices: options.localDevices }),
    })
    const place: Place = { holder: undefined }
    const devices = opened.devices.map((device) => ({
      ...device,
      place: device.endpoint ?? "local",
    }))
    const places = devices.map((device) => device.place)
    return {
      servers: opened.servers,
      devices,
      host: opened.host,
      enginePid: engine.pid,
      memory: Effect.map(engine.request({ type: "memory" }), ({ event }) => ({
        devices: event.devices,
        host: event.host,
        links: event.links,
        atMs: performance.now(),
      })),
      traffic: Effect.map(engine.request({ type: "traffic" }), ({ event }) => event.links),
      linkSpeeds: Effect.map(
        engine.request({ type: "speeds", waits: true }),
        ({ event }) => event.speeds,
      ),
      tokenize: (path, text, options) => tokenize(engine, text, { ...options, path }),
      plan: (path, planOptions = {}) => planModel(engine, places, path, planOptions),
      load: (plan, onProgress) => loadModel(engine, place, plan, onProgress ?? (() => {})),
    } satisfies Cluster
  })
