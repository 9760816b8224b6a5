import { Cluster, parseEndpoint } from "@ggml-rpc/client"
import { Effect, Stream } from "effect"

const [model = "model.gguf", ...servers] = process.argv.slice(2)
const program = Effect.gen(function* () {
  const cluster = yield* Cluster.open({ endpoints: yield* Effect.all(servers.map(parseEndpoint)) })
  const plan = yield* cluster.plan(model, { contextSize: 4096 })
  const loaded = yield* cluster.load(plan)
  const prompt = "Once upon a time"
  const tokens = loaded.generate(prompt, { maxTokens: 64, temp: 0 })
  yield* Stream.runForEach(tokens, (token) => Effect.sync(() => process.stdout.write(token.text)))
})

const told = Effect.catchTag(program, "ConnectError", ({ endpoint, reason, message }) =>
  Effect.sync(() => {
    console.error(`${endpoint}: ${reason}. ${message}`)
    process.exitCode = 1
  }),
)
await Effect.runPromise(Effect.scoped(told))
