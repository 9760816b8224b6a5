/**
 * One model cut over the devices of several servers, for tests/tensorSplit.test.ts: a prompt, then token by token the likeliest
 * one. Arguments: the servers' ports, the model's path, and who adds up the partial sums: `servers`, `client`, `ggml`, or `layer`,
 * which cuts no tensor; how long the prompt and its parts are; the servers' token, "" where they have none; and the devices in the order in which tensors are cut,
 * "" for their own.
 */
import { type Address, io, LlamaModel, loadBackends } from "@ggml-rpc/native/bindings/llama"
import { send } from "@ggml-rpc/native/worker/child"
import { RpcConnection } from "../connection/RpcConnection.ts"
import { RemoteDevices } from "./RemoteDevices.ts"

/** What each step's logits are, and what it took. */
export interface Said {
  readonly statuses: ReadonlyArray<number>
  readonly tokens: ReadonlyArray<number>
  /** Of each step, hex. */
  readonly hashes: ReadonlyArray<string>
  /** Of the last step: of each connection. */
  readonly writes: ReadonlyArray<number>
  readonly answers: ReadonlyArray<number>
  readonly sentBytes: ReadonlyArray<number>
  readonly failure: string | null
  /** Why sums take a longer way than they could. */
  readonly notes: ReadonlyArray<string>
}

const [ports, path, sums, promptLength, ubatch, token, order] = process.argv.slice(2) as [
  string,
  string,
  "servers" | "client" | "ggml" | "layer",
  string,
  string,
  string,
  string,
]
const STEPS = 4

loadBackends(0)
const connections = ports.split(",").map((port) => {
  const connection = new RpcConnection(
    { host: "127.0.0.1", port: Number(port) },
    token || undefined,
  )
  connection.open(5000)
  return connection
})
const remote = new RemoteDevices(connections)
remote.beginWork()
remote.cutTensors(sums === "layer" ? undefined : sums === "servers" ? "best" : sums)
const model = LlamaModel.open(path, {
  devices: (order === ""
    ? remote.devices
    : order.split(",").map((at) => remote.devices[Number(at)]!)
  ).map(({ address }) => address),
  splitMode: sums === "layer" ? "layer" : "tensor",
  abortFlag: io().io_abort_flag() as Address,
})
const context = model.openContext({
  contextSize: 512,
  threads: 1,
  flashAttention: 1,
  ubatchSize: Number(ubatch),
})
remote.settle()
const notes = remote.prepareSums()

const writes = connections.map(() => 0)
const answers = connections.map(() => 0)
for (const [at, connection] of connections.entries()) {
  const counted = connection as unknown as {
    send: (...args: ReadonlyArray<unknown>) => void
    receive: (...args: ReadonlyArray<unknown>) => boolean
  }
  const { send, receive } = counted
  counted.send = (...args) => {
    writes[at]!++
    send.apply(connection, [...args])
  }
  counted.receive = (...args) => {
    answers[at]!++
    return receive.apply(connection, [...args])
  }
}

const tokens = Array.from({ length: Number(promptLength) }, (_, index) => (index * 37 + 5) % 128)
const statuses: Array<number> = []
const hashes: Array<string> = []
let batch = tokens.slice()
let sentBefore: ReadonlyArray<number> = []
for (let step = 0; step <= STEPS; step++) {
  writes.fill(0)
  answers.fill(0)
  sentBefore = connections.map(({ traffic }) => traffic.sentBytes)
  statuses.push(context.decode(Int32Array.from(batch)))
  const logits = context.logits()
  hashes.push(
    Bun.hash(new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength)).toString(16),
  )
  const token = logits.indexOf(Math.max(...logits))
  tokens.push(token)
  batch = [token]
}
send({
  statuses,
  tokens,
  hashes,
  writes,
  answers,
  sentBytes: connections.map(({ traffic }, at) => traffic.sentBytes - sentBefore[at]!),
  failure: remote.failure?.message ?? null,
  notes,
} satisfies Said)
process.exit(0)
