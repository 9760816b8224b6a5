/**
 * What classes of attacks come to on upstream's rpc-server and on ours, as the table of docs/security.md:
 *
 *     bun tests/hostile/compare.ts
 *
 * Each runs against a server of its own; then another client asks for something while the attacker is still connected, and once
 * more when it has left.
 */
import { Command, type RpcTensor, typeId } from "@ggml-rpc/protocol"
import { f32Tensor, floats, node, TestClient } from "../../packages/server/test/TestClient.ts"
import { tensorsOf, VALID_NODE_BYTES, validNodes } from "../../packages/server/test/validNodes.ts"
import { type ServerProcess, startUpstreamServer } from "../peers/process.ts"
import { startOurServer } from "../servers.ts"
import { params } from "./attack.ts"

/** What the attacker saw that it should not have, as a clause; undefined when nothing. */
type Gain = string | undefined

interface AttackClass {
  readonly name: string
  readonly attack: (port: number) => Promise<{ client: TestClient; gain?: Gain }>
}

const SECRET = new Uint8Array(4096).fill(0x5e)

const meet = (port: number): Promise<TestClient> => TestClient.meet(port, true)

/** A client that sends one bad request and waits for its end, or for an answer to the next. */
const request =
  (send: (client: TestClient, buffer: { remotePtr: bigint; basePtr: bigint }) => unknown) =>
  async (port: number) => {
    const client = await meet(port)
    const buffer = await client.allocate(VALID_NODE_BYTES)
    await send(client, buffer)
    client.send(Command.GET_ALIGNMENT, { device: 0 })
    await Promise.race([client.closed, Bun.sleep(1500)])
    return { client }
  }

const graph = (client: TestClient, tensors: readonly RpcTensor[], nodes?: readonly bigint[]) =>
  client.send(Command.GRAPH_COMPUTE, {
    ...{ uid: 1n, device: 0, tensors: [...tensors] },
    nodes: [...(nodes ?? [BigInt(tensors.length)])],
  })

const valid = (op: string, buffer: { remotePtr: bigint; basePtr: bigint }): RpcTensor[] =>
  tensorsOf(validNodes.find((candidate) => candidate.op === op)!, buffer)

const withLast = (tensors: RpcTensor[], fields: Partial<RpcTensor>): RpcTensor[] => [
  ...tensors.slice(0, -1),
  { ...tensors.at(-1)!, ...fields },
]

const classes: readonly AttackClass[] = [
  {
    name: "a connection that says nothing",
    attack: async (port) => ({ client: await TestClient.open(port) }),
  },
  {
    name: "a client that stays, while another one comes",
    attack: async (port) => ({ client: await meet(port) }),
  },
  {
    name: "a request of 2^62 bytes",
    attack: request((client) => {
      const header = new Uint8Array(9)
      header[0] = Command.SET_TENSOR
      new DataView(header.buffer).setBigUint64(1, 2n ** 62n, true)
      client.write(header)
    }),
  },
  {
    name: "what the client before wrote, in a new buffer",
    attack: async (port) => {
      const first = await meet(port)
      const old = await first.allocate(64 * SECRET.length)
      for (let at = 0; at < 64; at++) {
        first.setTensor(f32Tensor(1, old, at * SECRET.length, [1024]), SECRET)
      }
      await first.getTensor(f32Tensor(1, old, 0, [1024]), 16)
      first.close()
      await Bun.sleep(300)
      const client = await meet(port)
      const buffer = await client.allocate(64 * SECRET.length)
      const data = await client.getTensor(f32Tensor(1, buffer, 0, [64 * 1024]), 64 * SECRET.length)
      const count = data.filter((byte) => byte === SECRET[0]).length
      return { client, gain: count > 1024 ? `reads ${count} bytes of it` : undefined }
    },
  },
  {
    name: "GET_TENSOR of an address outside (CVE-2024-42478)",
    attack: request((client, buffer) =>
      client.send(Command.GET_TENSOR, {
        tensor: f32Tensor(1, buffer, 0, [4], { data: 0x7fff_0000_0000n }),
        ...{ offsetBytes: 0n, sizeBytes: 16n },
      }),
    ),
  },
  {
    name: "a tensor with buffer 0 (CVE-2026-34159)",
    attack: request((client, buffer) => {
      const tensors = valid("ADD", buffer)
      graph(client, [{ ...tensors[0]!, buffer: 0n, data: 0x41_4141n }, ...tensors.slice(1)])
    }),
  },
  {
    name: "a function pointer in op_params (CVE-2026-78147)",
    attack: request((client, buffer) =>
      graph(client, [
        f32Tensor(1, buffer, 0, [4]),
        f32Tensor(2, buffer, 64, [4], { ...node("MAP_CUSTOM1", 1), ...params(0x4141_4141, 1) }),
      ]),
    ),
  },
  {
    name: "GRAPH_RECOMPUTE after FREE_BUFFER (GHSA-2phh-px2f-2qmx)",
    attack: request(async (client) => {
      const other = await client.allocate(64 * 2 ** 20)
      const a = f32Tensor(1, other, 0, [2 ** 20])
      graph(client, [a, f32Tensor(2, other, 2 ** 23, [2 ** 20], node("ADD", 1, 1))])
      await client.tell(Command.FREE_BUFFER, { remotePtr: other.remotePtr })
      client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 1n })
    }),
  },
  {
    name: "node id 0 (llama.cpp 25299)",
    attack: request((client, buffer) => graph(client, [f32Tensor(1, buffer, 0, [4])], [0n])),
  },
  {
    name: "a type that does not exist (CVE-2024-42477)",
    attack: request((client, buffer) =>
      client.setTensor(f32Tensor(1, buffer, 0, [4], { type: 1000 }), floats(1)),
    ),
  },
  {
    name: "strides of a result that reach outside its buffer",
    attack: request((client, buffer) => {
      const shape = { ne: [1, 1, 2, 1], nb: [4, 2 ** 30, 0, 0] }
      graph(client, withLast(valid("CLAMP", buffer), shape))
    }),
  },
  {
    name: "an index out of range, computed in the graph",
    attack: request((client, buffer) => {
      const rows = f32Tensor(1, buffer, 0, [8, 5])
      const zero = f32Tensor(2, buffer, 1024, [1])
      const index = f32Tensor(3, buffer, 2048, [1], { type: typeId("I32") })
      client.setTensor(zero, floats(4e8))
      const large = { ...index, ...node("CPY", 2, 3) }
      const result = f32Tensor(4, buffer, 4096, [8, 1], node("GET_ROWS", 1, 3))
      graph(client, [rows, zero, large, result], [3n, 4n])
    }),
  },
  {
    name: "shapes that a kernel asserts",
    attack: request((client, buffer) => {
      const a = f32Tensor(1, buffer, 0, [8, 4])
      const b = f32Tensor(2, buffer, 1024, [7, 4])
      graph(client, [a, b, f32Tensor(3, buffer, 2048, [4, 4], node("MUL_MAT", 1, 2))])
    }),
  },
]

/** Whether another client gets a right answer now. */
const servesAnother = async (port: number): Promise<boolean> => {
  const compute = async (): Promise<boolean> => {
    const client = await meet(port)
    try {
      const buffer = await client.allocate(4096)
      const a = f32Tensor(1, buffer, 0, [4])
      client.setTensor(a, floats(1, 2, 3, 4))
      const sum = f32Tensor(2, buffer, 64, [4], node("ADD", 1, 1))
      graph(client, [a, sum])
      const found = await client.getTensor(sum, 16)
      return Bun.deepEquals(found, floats(2, 4, 6, 8))
    } finally {
      client.close()
    }
  }
  return Promise.race([compute().catch(() => false), Bun.sleep(3000).then(() => false)])
}

const outcomeOf = async (server: ServerProcess, { attack }: AttackClass): Promise<string> => {
  const done = await Promise.race([
    attack(server.port).catch((error: unknown) => ({ client: undefined, gain: String(error) })),
    Bun.sleep(10_000).then(() => ({ client: undefined, gain: undefined })),
  ])
  const isOver = done.client?.isClosed ?? true
  const meanwhile = server.isRunning() && (await servesAnother(server.port))
  done.client?.close()
  await Bun.sleep(300)
  const later = server.isRunning() && (await servesAnother(server.port))
  const says: string[] = []
  if (!server.isRunning()) says.push(`the server ends (${describeEnd(await server.exited)})`)
  else if (isOver) says.push("refused, the attacker's connection ends")
  else says.push("the attacker is served on")
  if (done.gain !== undefined) says.push(done.gain)
  if (server.isRunning() && !meanwhile) says.push("nobody else is served meanwhile")
  if (server.isRunning() && !later) says.push("nor later")
  return says.join("; ")
}

const signals: Record<number, string> = {
  134: "SIGABRT",
  135: "SIGBUS",
  137: "SIGKILL",
  139: "SIGSEGV",
}

const describeEnd = (exitCode: number): string => signals[exitCode] ?? `exit code ${exitCode}`

const starts = {
  upstream: () => startUpstreamServer({ threads: 1 }),
  ours: () => startOurServer(),
}

const on = async (start: () => Promise<ServerProcess>, given: AttackClass): Promise<string> => {
  await using server = await start()
  return await outcomeOf(server, given)
}

console.log("| attack | llama.cpp's rpc-server | ours |\n| --- | --- | --- |")
for (const given of classes) {
  const upstream = await on(starts.upstream, given)
  const ours = await on(starts.ours, given)
  console.log(`| ${given.name} | ${upstream} | ${ours} |`)
}
process.exit(0)
