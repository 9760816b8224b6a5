/** Our server as a process: -p PORT -t THREADS [-c]. */
import { parseArgs } from "node:util"
import { serve } from "@ggml-rpc/server"
import { Effect } from "effect"

const { values } = parseArgs({
  options: {
    port: { type: "string", short: "p" },
    threads: { type: "string", short: "t", default: "1" },
    cache: { type: "boolean", short: "c", default: false },
  },
})
const ended = Effect.async<void>((resume) => {
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () => resume(Effect.void))
  }
})
await Effect.runPromise(
  Effect.scoped(
    Effect.zipRight(
      serve({
        port: Number(values.port),
        threadCount: Number(values.threads),
        cache: values.cache,
        log: () => {},
      }),
      ended,
    ),
  ),
)
process.exit(0)
