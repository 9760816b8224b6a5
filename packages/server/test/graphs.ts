/** Small graphs that several tests have a client send. */
import { Command } from "@ggml-rpc/protocol"
import { f32Tensor, node, type TestBuffer, type TestClient } from "./TestClient.ts"

/** Sends a graph, of uid 1, that puts twice the four numbers of `a` into `sum`, both at the start of a new buffer. */
export const sendDoubling = async (client: TestClient, bufferBytes = 4096) => {
  const buffer = await client.allocate(bufferBytes)
  const a = f32Tensor(1, buffer, 0, [4])
  const sum = f32Tensor(2, buffer, 64, [4], node("ADD", 1, 1))
  client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: [2n], tensors: [a, sum] })
  return { buffer, a, sum }
}

/** Has the client's session run a kernel. */
export const computeOnce = async (client: TestClient): Promise<TestBuffer> => {
  const { buffer, sum } = await sendDoubling(client)
  await client.getTensor(sum, 16)
  return buffer
}

const MIB = 1024 * 1024

/** Makes ready a single operation of many seconds, which `start` sends: a product of 64 rows of 16 million numbers, most of which they share. */
export const endlessProduct = async (client: TestClient): Promise<{ start: () => void }> => {
  const buffer = await client.allocate(128 * MIB)
  client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 0 })
  await client.ask(Command.DEVICE_COUNT, {})
  const a = f32Tensor(1, buffer, 0, [1], { ne: [16 * MIB, 64, 1, 1], nb: [4, 4, 4, 4] })
  const product = f32Tensor(2, buffer, 120 * MIB, [64, 64], node("MUL_MAT", 1, 1))
  const graph = { uid: 1n, device: 0, nodes: [2n], tensors: [a, product] }
  return { start: () => client.send(Command.GRAPH_COMPUTE, graph) }
}
