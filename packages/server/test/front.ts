/** A server in a process of its own: prints its port and its session processes, and waits. */
import * as Effect from "effect/Effect"
import { serve } from "../src/index.ts"

await Effect.runPromise(
  Effect.scoped(
    Effect.gen(function* () {
      const server = yield* serve({ port: 0, log: () => {} })
      console.log(JSON.stringify({ port: server.port, pids: server.processIds() }))
      yield* Effect.never
    }),
  ),
)
