/** Every operation runs as ggml builds it, and no other way. */
import { expect, test } from "bun:test"
import { Command, encodeExtensionRequest, libraryNumbering } from "@ggml-rpc/protocol"
import { TestClient } from "./TestClient.ts"
import { tensorsOf, VALID_NODE_BYTES, validNodes } from "./validNodes.ts"
import { withServer } from "./withServer.ts"

test("a valid node of each operation is computed", () =>
  withServer({}, async ({ port, log }) => {
    let client = await TestClient.connect(port)
    let buffer = await client.allocate(VALID_NODE_BYTES)
    const failed: string[] = []
    for (const node of validNodes) {
      client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 0 })
      const tensors = tensorsOf(node, buffer)
      const nodes = [BigInt(tensors.length)]
      client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes, tensors })
      try {
        await client.ask(Command.DEVICE_COUNT, {})
      } catch {
        await Bun.sleep(100)
        failed.push(`${node.op}: ${log.findLast(({ level }) => level === "error")?.message}`)
        client = await TestClient.connect(port)
        buffer = await client.allocate(VALID_NODE_BYTES)
      }
    }
    expect(failed).toEqual([])
    client.close()
  }))

test("a valid node of each operation is one that the device supports", () =>
  withServer({}, async ({ port }) => {
    const client = await TestClient.connect(port)
    // Where the tensors would lie does not matter: nothing does yet.
    const nowhere = { remotePtr: 0n, basePtr: 0n }
    const refused: string[] = []
    for (const node of validNodes) {
      const tensors = tensorsOf(node, nowhere).map((tensor) => ({ ...tensor, data: 0n }))
      const question = { device: 0, nodes: [BigInt(tensors.length)], tensors }
      client.write(encodeExtensionRequest("DEVICE_SUPPORTS", question))
      const answer = await client.read(9)
      if (answer[8] !== 1) refused.push(node.op)
    }
    expect(refused).toEqual([])
    client.close()
  }))

test("there is a valid node for each operation that runs and can be built", () => {
  const without = ["NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE", "FLASH_ATTN_BACK"]
  const callbacks = ["MAP_CUSTOM1", "MAP_CUSTOM2", "MAP_CUSTOM3", "CUSTOM"]
  const covered = new Set(validNodes.map(({ op }) => op))
  const missing = libraryNumbering.ops.filter((op) => !covered.has(op))
  expect(missing.toSorted()).toEqual([...without, ...callbacks].toSorted())
  expect(validNodes.filter(({ op }) => !libraryNumbering.ops.includes(op))).toEqual([])
})
