/** Our server and our client as the tests use them: real processes, free ports, nothing left behind. */
import { join } from "node:path"
import {
  Cluster,
  type ClusterError,
  type EndpointError,
  type GgufError,
  parseEndpoints,
} from "@ggml-rpc/client"
import { Effect, type Scope, Stream } from "effect"
import {
  groupMembers,
  ProcessError,
  type ServerProcess,
  type StartOptions,
  startProcess,
  waitUntil,
} from "./peers/process.ts"
import { newestRelease } from "./peers/releases.ts"

/** What runs `ggml-rpc`: put the command and its flags behind it. */
export const ggmlRpc: readonly string[] = [
  process.execPath,
  join(import.meta.dir, "..", "packages", "cli", "src", "main.ts"),
]

/**
 * Servers of the tests remember nothing of their clients, unless a test gives them a folder for it, and nobody reads the
 * developer's settings.
 */
export const noState = { XDG_STATE_HOME: "/dev/null", XDG_CONFIG_HOME: "/dev/null" } as const

// Clients remember nothing either: what they start inherits it.
process.env.GGML_RPC_WEIGHT_HASHES ??= "none"
process.env.GGML_RPC_DEVICE_SPEEDS ??= "none"

export interface OurServerOptions extends StartOptions {
  /** Default 1: the interop tests compare bits, and sums depend on the order of additions. */
  readonly threads?: number
  /**
   * Version to speak alone; `peers`: that of the newest release among the peers, whose clients end when they are offered
   * another at first. Default: what suits the client.
   */
  readonly protocol?: string
  /** More flags of `ggml-rpc serve`. */
  readonly flags?: readonly string[]
  /** Put before the command. */
  readonly prefix?: readonly string[]
}

export interface OurServer extends ServerProcess {
  /** Its session processes now, waiting ones included. */
  readonly sessionPids: () => readonly number[]
}

/**
 * Starts `ggml-rpc serve` on a port that it picks itself.
 *
 * @throws {ProcessError} with what it printed, when it does not come up
 */
export const startOurServer = async (options: OurServerOptions = {}): Promise<OurServer> => {
  const child = startProcess(
    [
      ...[...(options.prefix ?? []), ...ggmlRpc],
      ...["serve", "--port", "0", "--threads", String(options.threads ?? 1), "--no-warmup"],
      ...(options.protocol === undefined ? [] : ["--protocol", protocolOf(options.protocol)]),
      ...(options.flags ?? []),
    ],
    { ...options, env: { ...noState, ...options.env } },
  )
  const endpoint = () => /^listening on (.+:(\d+))$/m.exec(child.stdout())
  await waitUntil(() => endpoint() !== null || !child.isRunning(), 20_000)
  const found = endpoint()
  if (found === null) {
    const isRunning = child.isRunning()
    await child.stop()
    throw new ProcessError({
      reason: isRunning ? "timeout" : "exited",
      message: `ggml-rpc serve did not come up; it printed:\n${child.stdout()}${child.stderr()}`,
    })
  }
  return {
    ...child,
    port: Number(found[2]),
    endpoint: found[1]!,
    sessionPids: () => groupMembers(child.pid).filter((pid) => pid !== child.pid),
  }
}

const protocolOf = (name: string): string => (name === "peers" ? newestRelease.protocol : name)

export type AnyClusterError = ClusterError | EndpointError | GgufError

/** Opens a cluster of these servers; without any, this machine's CPU. */
export const openCluster = (
  endpoints: readonly string[],
  options: Omit<Cluster.ClusterOptions, "endpoints"> = {},
): Effect.Effect<Cluster.Cluster, AnyClusterError, Scope.Scope> =>
  Effect.flatMap(parseEndpoints(endpoints.join(",")), (parsed) =>
    // No GPU of this machine: the tests compare with what the servers' CPUs compute.
    Cluster.open({ endpoints: parsed, localDevices: [], ...options }),
  )

/** Runs an effect in a scope of its own. */
export const run = <A>(effect: Effect.Effect<A, AnyClusterError, Scope.Scope>): Promise<A> =>
  Effect.runPromise(Effect.scoped(effect))

/** The error an effect fails with; another outcome is a failure of the test. */
export const failureOf = <A>(
  effect: Effect.Effect<A, AnyClusterError, Scope.Scope>,
): Promise<AnyClusterError> => Effect.runPromise(Effect.scoped(Effect.flip(effect)))

export interface Recital {
  readonly tokens: readonly number[]
  readonly text: string
  /** Units on each device, then on this host's CPU. */
  readonly unitCounts: readonly number[]
}

export interface ReciteOptions extends Cluster.PlanOptions {
  readonly prompt: string | readonly number[]
  readonly maxTokens: number
}

/** Greedy tokens of a model on a cluster of these servers. */
export const recite = (
  endpoints: readonly string[],
  path: string,
  { prompt, maxTokens, ...planOptions }: ReciteOptions,
): Promise<Recital> =>
  run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpoints)
      const plan = yield* cluster.plan(path, { threads: 1, ...planOptions })
      const model = yield* cluster.load(plan)
      const pieces = yield* Stream.runCollect(model.generate(prompt, { maxTokens, temp: 0 }))
      return {
        tokens: [...pieces].map(({ id }) => id).filter((id) => id >= 0),
        text: [...pieces].map(({ text }) => text).join(""),
        unitCounts: [...plan.devices, plan.host].map(({ unitCount }) => unitCount),
      }
    }),
  )
