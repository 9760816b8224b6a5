/** How long and how much a client may compute, and how long it may be silent. */
import { expect, test } from "bun:test"
import { Command } from "@ggml-rpc/protocol"
import { endlessProduct } from "./graphs.ts"
import { isAlive, largest, waitFor } from "./processes.ts"
import { f32Tensor, node, TestClient } from "./TestClient.ts"
import { withServer } from "./withServer.ts"

const MIB = 2 ** 20

/** A client with a graph of `count` products of two matrices; with 1024 rows each takes 40 ms or more. */
const graphOf = async (port: number, count: number, rows = 1024) => {
  const client = await TestClient.connect(port)
  const buffer = await client.allocate(16 * MIB)
  client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 0 })
  const tensors = [f32Tensor(1, buffer, 0, [rows, rows])]
  for (let id = 2; id < count + 2; id++) {
    tensors.push(f32Tensor(id, buffer, 8 * MIB, [rows, rows], node("MUL_MAT", 1, 1)))
  }
  const nodes = tensors.slice(1).map(({ id }) => id)
  return { client, graph: { uid: 1n, device: 0, nodes, tensors } }
}

test("a graph that runs longer than it may is stopped, and its client told why", () =>
  withServer({ maxComputeMs: 500 }, async (server) => {
    const { client, graph } = await graphOf(server.port, 2000)
    await client.ask(Command.DEVICE_COUNT, {})
    const started = performance.now()
    client.send(Command.GRAPH_COMPUTE, graph)
    await client.closed
    expect(performance.now() - started).toBeWithin(500, 3000)
    await server.logged("GRAPH_COMPUTE: nodes run for longer than the 0.5 s that a graph may")
    // Another one, with less to do, is served.
    const { client: next, graph: small } = await graphOf(server.port, 1, 32)
    next.send(Command.GRAPH_COMPUTE, small)
    expect((await next.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
    next.close()
  }))

test("so is one of a single operation, with its process", () =>
  withServer({ maxComputeMs: 300 }, async (server) => {
    const client = await TestClient.connect(server.port)
    const { start } = await endlessProduct(client)
    const pid = largest(server.processIds())
    start()
    expect(await waitFor("the process ends", () => !isAlive(pid))).toBeLessThan(4000)
    await server.logged("died: a graph of its client ran for longer than a graph may")
  }))

test("a client that is silent for too long has to go, one that asks now and then stays", () =>
  withServer({ idleTimeoutMs: 400 }, async (server) => {
    const silent = await TestClient.connect(server.port)
    const lively = await TestClient.connect(server.port)
    for (let rounds = 0; rounds < 6; rounds++) {
      await lively.ask(Command.DEVICE_COUNT, {})
      await Bun.sleep(150)
    }
    await silent.closed
    await server.logged("left (silent for longer than a client may be (--idle-timeout), after 0.")
    expect((await lively.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
    lively.close()
  }))

test("a client that stops in the middle of a request has to go, too", () =>
  withServer({ idleTimeoutMs: 300 }, async (server) => {
    const client = await TestClient.connect(server.port)
    const buffer = await client.allocate(MIB)
    await client.ask(Command.BUFFER_GET_BASE, { remotePtr: buffer.remotePtr })
    const header = new Uint8Array(9)
    header[0] = Command.SET_TENSOR
    new DataView(header.buffer).setBigUint64(1, BigInt(MIB), true)
    client.write(header)
    await client.closed
    await server.logged("silent for longer than a client may be")
  }))

test("a graph of more nodes than it may have is refused", () =>
  withServer({ maxGraphNodes: 3 }, async (server) => {
    const { client, graph } = await graphOf(server.port, 3)
    client.send(Command.GRAPH_COMPUTE, graph)
    expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
    const { client: other, graph: large } = await graphOf(server.port, 4)
    other.send(Command.GRAPH_COMPUTE, large)
    await other.closed
    await server.logged("GRAPH_COMPUTE: n_nodes must be at most 3 on this server (got 4)")
    client.close()
  }))
