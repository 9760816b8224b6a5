/**
 * Two contexts of one model on one server, for tests/contexts.test.ts: both ask for their logits, then each waits for
 * its own. Arguments: the server's port, the model's path. Says how long each waited.
 */
import { type Address, io, LlamaModel, loadBackends } from "@ggml-rpc/native/bindings/llama"
import { send } from "@ggml-rpc/native/worker/child"
import { RpcConnection } from "../connection/RpcConnection.ts"
import { RemoteDevices } from "./RemoteDevices.ts"

const [port, path] = process.argv.slice(2) as [string, string]

loadBackends(0)
const connection = new RpcConnection({ host: "127.0.0.1", port: Number(port) })
connection.open(5000)
const remote = new RemoteDevices([connection])
remote.beginWork()
const model = LlamaModel.open(path, {
  devices: remote.devices.map(({ address }) => address),
  abortFlag: io().io_abort_flag() as Address,
})
const contexts = [0, 1].map(() =>
  model.openContext({ contextSize: 256, threads: 1, flashAttention: 1 }),
)
remote.settle()
const statuses = contexts.map((context, index) => context.decode(Int32Array.of(index + 1)))
const waits = contexts.map((context) => {
  const started = performance.now()
  context.synchronize()
  return performance.now() - started
})
const logits = contexts.map((context) => context.logits()[0])
send({ statuses, waits, logits, failure: remote.failure?.message ?? null })
process.exit(0)
