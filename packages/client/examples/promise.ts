import { ConnectError, openCluster } from "@ggml-rpc/client/promise"

const [model = "model.gguf", ...servers] = process.argv.slice(2)
try {
  await using cluster = await openCluster(servers)
  const plan = await cluster.plan(model, { contextSize: 4096 })
  const loaded = await cluster.load(plan)
  const prompt = "Once upon a time"
  for await (const token of loaded.generate(prompt, { maxTokens: 64, temp: 0 })) {
    process.stdout.write(token.text)
  }
} catch (error) {
  if (!(error instanceof ConnectError)) throw error
  console.error(`${error.endpoint}: ${error.reason}. ${error.message}`)
  process.exitCode = 1
}
