/** What the log says of clients: that they came, what they had, and how they ended. */
import { expect, test } from "bun:test"
import { Command, encodeExtensionRequest } from "@ggml-rpc/protocol"
import { computeOnce } from "./graphs.ts"
import { largest } from "./processes.ts"
import { f32Tensor, TestClient } from "./TestClient.ts"
import { withServer } from "./withServer.ts"

const MIB = 2 ** 20

test("a client that comes and leaves, with what it had", () =>
  withServer({}, async (server) => {
    const client = await TestClient.connect(server.port)
    await server.logged("connected (process ")
    const buffer = await client.allocate(3 * MIB)
    const other = await client.allocate(2 * MIB)
    client.send(Command.FREE_BUFFER, { remotePtr: other.remotePtr })
    client.setTensor(f32Tensor(1, buffer, 0, [262_144]), new Uint8Array(MIB))
    await client.ask(Command.DEVICE_COUNT, {})
    client.close()
    const line = await server.logged("left (closed, after ")
    expect(line).toMatch(
      /after \d\.\d s, protocol 8\.0\.0, 1\.\d+ MiB received, \d+ B sent, at most 5(\.0+)? MiB of buffers\)$/,
    )
  }))

test("one of ggml-rpc's, which had nothing", () =>
  withServer({}, async (server) => {
    const client = await TestClient.connect(server.port)
    const graph = { device: 0, nodes: [], tensors: [] }
    client.write(encodeExtensionRequest("DEVICE_SUPPORTS", graph))
    await client.ask(Command.DEVICE_COUNT, {}).catch(() => {})
    client.close()
    await server.logged("s, ggml-rpc, protocol 8.0.0, no buffers")
  }))

test("one whose session dies, and in which request", () =>
  withServer({}, async (server) => {
    const client = await TestClient.connect(server.port)
    const buffer = await computeOnce(client)
    client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 0 })
    await client.ask(Command.BUFFER_GET_BASE, { remotePtr: buffer.remotePtr })
    process.kill(largest(server.processIds()), "SIGKILL")
    await client.closed
    await server.logged("died: SIGKILL (in BUFFER_GET_BASE, after ")
  }))
