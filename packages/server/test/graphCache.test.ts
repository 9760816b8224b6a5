/** Graphs by uid: which GRAPH_RECOMPUTE finds, of up to 1024 a device. */
import { expect, test } from "bun:test"
import { Command } from "@ggml-rpc/protocol"
import { f32Tensor, floats, node, TestClient, toFloats } from "./TestClient.ts"
import { withServer } from "./withServer.ts"

const LIMIT = 1024

/** Adds `b` to `a` in place; how often it ran is what `a` holds. */
const open = async (port: number, device = 0) => {
  const client = await TestClient.connect(port)
  const buffer = await client.allocate(4096, device)
  const a = f32Tensor(1, buffer, 0, [1])
  const one = f32Tensor(2, buffer, 64, [1])
  const sum = f32Tensor(3, buffer, 0, [1], node("ADD", 1, 2))
  client.setTensor(one, floats(1))
  let expected = 0
  const ran = async (times: number): Promise<void> => {
    expected += times
    expect(toFloats(await client.getTensor(a, 4))).toEqual([expected])
  }
  const send = (uid: bigint): void =>
    client.send(Command.GRAPH_COMPUTE, { uid, device, nodes: [3n], tensors: [a, one, sum] })
  const again = (uid: bigint): void => client.send(Command.GRAPH_RECOMPUTE, { device, uid })
  return { client, buffer, ran, send, again }
}

type Opened = Awaited<ReturnType<typeof open>>

const withGraphs = (use: (graphs: Opened, port: number) => Promise<void>): Promise<void> =>
  withServer({}, async ({ port }) => {
    const graphs = await open(port)
    await use(graphs, port)
    graphs.client.close()
  })

test("1024 are kept; one more clears them, even one that is there", () =>
  withGraphs(async ({ ran, send, again, client }) => {
    for (let uid = 1; uid <= LIMIT; uid++) send(BigInt(uid))
    await ran(LIMIT)
    for (const uid of [1n, 512n, BigInt(LIMIT)]) again(uid)
    await ran(3)
    // Replaces uid 7, after the others are gone.
    send(7n)
    again(7n)
    await ran(2)
    again(8n)
    await client.closed
  }))

test("a uid that comes again does not count twice", () =>
  withGraphs(async ({ ran, send, again }) => {
    for (let uid = 1; uid < LIMIT; uid++) send(BigInt(uid))
    for (let repeat = 0; repeat < 10; repeat++) send(5n)
    again(1n)
    await ran(LIMIT - 1 + 10 + 1)
  }))

test.each([0n, 9n])("uid %p is not found when it was not stored", (uid) =>
  withGraphs(async ({ ran, send, again, client }) => {
    send(0n)
    await ran(1)
    again(uid)
    await client.closed
  }),
)

test("uid 0 neither takes a place nor drops a graph", () =>
  withGraphs(async ({ ran, send, again }) => {
    for (let uid = 1; uid <= LIMIT; uid++) send(BigInt(uid))
    for (let repeat = 0; repeat < 3; repeat++) send(0n)
    again(1n)
    await ran(LIMIT + 4)
  }))

test("uids are 64 bits", () =>
  withGraphs(async ({ ran, send, again, client }) => {
    const uids = [2n ** 64n - 1n, 2n ** 63n, 2n ** 53n, 2n ** 53n + 1n, 2n ** 32n]
    for (const uid of uids) send(uid)
    for (const uid of uids) again(uid)
    await ran(2 * uids.length)
    again(2n ** 53n + 2n)
    await client.closed
  }))

test("FREE_BUFFER of another buffer keeps them", () =>
  withGraphs(async ({ ran, send, again, client }) => {
    const other = await client.allocate(64)
    send(1n)
    client.send(Command.FREE_BUFFER, { remotePtr: other.remotePtr })
    again(1n)
    await ran(2)
  }))

test("FREE_BUFFER of their buffer drops them, and they count still", () =>
  withServer({}, async ({ port }) => {
    const { client, ran, send, again } = await open(port)
    const other = await client.allocate(4096)
    const x = f32Tensor(11, other, 0, [1])
    const y = f32Tensor(12, other, 0, [1], node("ADD", 11, 11))
    const sendOther = (uid: bigint): void =>
      client.send(Command.GRAPH_COMPUTE, { uid, device: 0, nodes: [12n], tensors: [x, y] })
    send(1n)
    for (let uid = 2; uid <= LIMIT; uid++) sendOther(BigInt(uid))
    client.send(Command.FREE_BUFFER, { remotePtr: other.remotePtr })
    again(1n)
    await ran(2)
    // The place of uid 2 is taken still: the device is full, and all go.
    send(2n)
    again(2n)
    await ran(2)
    again(1n)
    await client.closed

    const second = await open(port)
    second.send(3n)
    second.client.send(Command.FREE_BUFFER, { remotePtr: second.buffer.remotePtr })
    second.again(3n)
    await second.client.closed
  }))

test("each device and each connection has its own", () =>
  withServer({ devices: ["CPU", "CPU"] }, async ({ port }) => {
    const [first, second] = [await open(port, 0), await open(port, 1)]
    first.send(1n)
    second.send(2n)
    first.again(1n)
    second.again(2n)
    await first.ran(2)
    await second.ran(2)
    first.client.send(Command.GRAPH_RECOMPUTE, { device: 1, uid: 1n })
    second.again(1n)
    await first.client.closed
    await second.client.closed
  }))

test("graphs are kept as long as there is memory for them", () =>
  withServer({}, async ({ port, logged }) => {
    const holder = await TestClient.connect(port)
    const { client, buffer, ran, send } = await open(port)
    const { freeBytes } = await holder.ask(Command.GET_DEVICE_MEMORY, { device: 0 })
    // What is left lies around what other programs take in between.
    const sizeBytes = freeBytes - 128n * 1024n * 1024n
    const { remotePtr } = await holder.ask(Command.ALLOC_BUFFER, { device: 0, sizeBytes })
    expect(remotePtr).not.toBe(0n)
    send(1n)
    await ran(1)

    const tensors = Array.from({ length: 20_000 }, (_, id) => f32Tensor(1 + id, buffer, 0, [1]))
    tensors.push(f32Tensor(20_001, buffer, 0, [1], node("ADD", 1, 2)))
    const request = { device: 0, nodes: [20_001n], tensors }
    let count = 0
    while (!client.isClosed && count < 200) {
      client.send(Command.GRAPH_COMPUTE, { ...request, uid: BigInt(++count) })
      await client.flushed()
    }
    await client.closed
    expect(count).toBeGreaterThan(1)
    await logged("GRAPH_COMPUTE", "needs more memory than this machine has now")
    expect((await holder.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
    holder.close()
  }))
