/** Attacks on a running server, beside a client that is there all along and computes. */
import { afterAll, beforeAll, expect } from "bun:test"
import { Command, type RpcTensor } from "@ggml-rpc/protocol"
import {
  f32Tensor,
  floats,
  node,
  type TestBuffer,
  TestClient,
} from "../../packages/server/test/TestClient.ts"
import { tensorsOf, VALID_NODE_BYTES, validNodes } from "../../packages/server/test/validNodes.ts"
import { startServer } from "../../packages/server/test/withServer.ts"

let server: Awaited<ReturnType<typeof startServer>>
let witness: TestClient
let witnessTensors: readonly RpcTensor[]

/** For the tests of a file: a server with its witness. */
export const attackServer = (): void => {
  beforeAll(start)
  afterAll(async () => {
    witness.close()
    await server.stop()
  })
}

const start = async (): Promise<void> => {
  server = await startServer({ allowTraining: true, addressLimits: false, logWindowMs: 0 })
  witness = await TestClient.connect(server.port)
  const buffer = await witness.allocate(4096)
  witnessTensors = [
    f32Tensor(1, buffer, 0, [4]),
    f32Tensor(2, buffer, 64, [4]),
    f32Tensor(3, buffer, 128, [4], node("ADD", 1, 2)),
  ]
  witness.setTensor(witnessTensors[0]!, floats(1, 2, 3, 4))
  witness.setTensor(witnessTensors[1]!, floats(10, 20, 30, 40))
}

/** The client that is there all along computes the right thing. */
const checkWitness = async (): Promise<void> => {
  const tensors = [...witnessTensors]
  witness.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: [3n], tensors })
  expect(await witness.getTensor(tensors[2]!, 16)).toEqual(floats(11, 22, 33, 44))
}

/** What a client does that has a buffer of `VALID_NODE_BYTES`. */
export type Attack = (client: TestClient, buffer: TestBuffer) => void | Promise<void>

/** How long the server may take to refuse. */
const PATIENCE_MS = 20_000

/** What the server logs about the client that does this. */
const refusalOf = async (attack: Attack): Promise<string> => {
  const before = server.log.length
  const client = await TestClient.connect(server.port)
  const buffer = await client.allocate(VALID_NODE_BYTES)
  await attack(client, buffer)
  await Promise.race([client.closed, Bun.sleep(PATIENCE_MS)])
  client.close()
  for (let tries = 0; tries < 400; tries++) {
    const line = server.log.slice(before).find(({ level }) => level === "error")
    if (line !== undefined) return line.message
    await Bun.sleep(5)
  }
  throw new Error(`nothing was logged; the log: ${JSON.stringify(server.log.slice(-5))}`)
}

/** Runs an attack, which must be refused in words that hold all of `texts`. */
export const refuses = async (attack: Attack, ...texts: readonly string[]): Promise<void> => {
  const line = await refusalOf(attack)
  for (const text of texts) expect(line).toContain(text)
  await checkWitness()
}

/** Asks for a graph under uid 1; `nodes` is the last tensor when not given. */
export const compute = (client: TestClient, tensors: RpcTensor[], nodes?: bigint[]): void =>
  client.send(Command.GRAPH_COMPUTE, {
    ...{ uid: 1n, device: 0, tensors },
    nodes: nodes ?? [BigInt(tensors.length)],
  })

type Changes = Readonly<Record<number, Partial<RpcTensor>>>

/** Computes the first valid node of an operation in which tensors are changed, by index; -1 is the result. */
export const changed =
  (op: string, changes: Changes): Attack =>
  (client, buffer) => {
    const tensors = tensorsOf(validNodes.find((candidate) => candidate.op === op)!, buffer)
    for (const [index, fields] of Object.entries(changes)) {
      const at = Number(index) < 0 ? tensors.length - 1 : Number(index)
      tensors[at] = { ...tensors[at]!, ...fields }
    }
    compute(client, tensors)
  }

/** Parameters of a node, the first ones given. */
export const params = (...first: readonly number[]): Partial<RpcTensor> => ({
  opParams: Array.from({ length: 16 }, (_, index) => first[index] ?? 0),
})

/** Shape and strides of a tensor that lies densely in memory; `size` is that of an element, in bytes. */
export const dense = (ne: readonly number[], size = 4): Partial<RpcTensor> => {
  const nb = [size]
  for (let dim = 0; dim < 3; dim++) nb.push(nb[dim]! * ne[dim]!)
  return { ne: [...ne], nb }
}
