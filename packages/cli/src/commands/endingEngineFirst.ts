import type { Cluster } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"

/**
 * Runs an effect that uses the cluster's engine; when it is interrupted, the engine ends first. The
 * engine blocks while it loads or computes, and an orderly end would wait for that.
 */
export const endingEngineFirst = <A, E, R>(
  cluster: Cluster.Cluster,
  effect: Effect.Effect<A, E, R>,
): Effect.Effect<A, E, R> =>
  Effect.flatMap(Effect.fork(effect), (fiber) =>
    Effect.onInterrupt(Fiber.join(fiber), () =>
      Effect.zipRight(endEngine(cluster), Fiber.interrupt(fiber)),
    ),
  )

/**
 * Ends the cluster's engine, and with it what it holds here and on the servers: for the end of a command, which need not wait until a
 * model is freed piece by piece.
 */
export const endEngine = (cluster: Cluster.Cluster): Effect.Effect<void> =>
  Effect.sync(() => {
    try {
      process.kill(cluster.enginePid, "SIGKILL")
    } catch {
      // It has ended by itself.
    }
  })
