/** Every operation runs as ggml builds it, and no other way. */
import { expect, test } from "bun:test"
import { Command, encodeExtensionRequest, type OpName, typeId } from "@ggml-rpc/protocol"
import { opRules } from "../src/session/ops/table.ts"
import { f32Tensor, floats, node, TestClient, toFloats } from "./TestClient.ts"
import { tensorsOf, VALID_NODE_BYTES, validNodes } from "./validNodes.ts"
import { withServer } from "./withServer.ts"

test("a valid node of each operation is computed", () =>
  withServer({ allowTraining: true }, async ({ port, log }) => {
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
  withServer({ allowTraining: true }, async ({ port }) => {
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

test("nodes that compute nothing are left out, whatever their sources", () =>
  withServer({}, async ({ port }) => {
    const client = await TestClient.connect(port)
    const buffer = await client.allocate(4096)
    const inputs = [
      f32Tensor(1, buffer, 0, [4, 2]),
      f32Tensor(2, buffer, 64, [4, 2]),
      f32Tensor(3, buffer, 128, [3, 0]),
      { ...f32Tensor(4, buffer, 192, [2]), type: typeId("I32") },
    ]
    const empty = [
      // A server's part of a matrix, of heads, of experts may be none (`-sm tensor`), and then the rest does not fit.
      f32Tensor(5, buffer, 256, [0, 5], node("MUL_MAT", 3, 1)),
      f32Tensor(6, buffer, 256, [0, 2], node("MUL_MAT_ID", 3, 1, 4)),
      f32Tensor(7, buffer, 256, [0, 2], node("GET_ROWS", 3, 4)),
      f32Tensor(8, buffer, 256, [4, 0, 3], node("FLASH_ATTN_EXT", 3, 3, 3)),
      f32Tensor(9, buffer, 256, [4, 2], { ...node("ADD", 1), flags: 0 }),
    ]
    const sum = f32Tensor(10, buffer, 256, [4, 2], node("ADD", 1, 2))
    const nothing = empty.map(({ id }) => id)
    for (const nodes of [nothing, [...nothing, 10n]]) {
      client.setTensor(inputs[0]!, floats(1, 2, 3, 4, 5, 6, 7, 8))
      client.setTensor(inputs[1]!, floats(1, 1, 1, 1, 1, 1, 1, 1))
      const tensors = [...inputs, ...empty, sum]
      client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes, tensors })
    }
    client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 1n })
    expect(toFloats(await client.getTensor(sum, 32))).toEqual([2, 3, 4, 5, 6, 7, 8, 9])
    client.close()
  }))

test("ROPE looks at more factors than it uses, at the end of a buffer as well", () =>
  withServer({}, async ({ port }) => {
    const client = await TestClient.connect(port)
    const buffer = await client.allocate(4096)
    const row = f32Tensor(1, buffer, 0, [16])
    const positions = { ...f32Tensor(2, buffer, 64, [1]), type: typeId("I32") }
    const factors = f32Tensor(3, buffer, 4096 - 16, [4])
    // 8 of the 16 numbers are turned, at position 0: by nothing. Base, scale and factor are 1.
    const one = 0x3f80_0000
    const opParams = [0, 8, 0, 0, 0, one, one, 0, one, 0, 0, 0, 0, 0, 0, 0]
    const roped = f32Tensor(4, buffer, 128, [16], { ...node("ROPE", 1, 2, 3), opParams })
    const numbers = Array.from({ length: 16 }, (_, index) => index)
    client.setTensor(row, floats(...numbers))
    client.setTensor(factors, floats(1, 1, 1, 1))
    const tensors = [row, positions, factors, roped]
    client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: [4n], tensors })
    expect(toFloats(await client.getTensor(roped, 64))).toEqual(numbers)
    client.close()
  }))

test("an operation of training alone is refused without --allow-training", () =>
  withServer({}, async ({ port, logged }) => {
    const client = await TestClient.connect(port)
    const step = validNodes.find(({ op }) => op === "OPT_STEP_SGD")!
    const tensors = tensorsOf(step, await client.allocate(VALID_NODE_BYTES))
    const nodes = [BigInt(tensors.length)]
    client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes, tensors })
    await client.closed
    await logged("is for training, which --allow-training allows (got OPT_STEP_SGD)")
  }))

test("there is a valid node for each operation that is computed", () => {
  const covered = new Set(validNodes.map(({ op }) => op))
  const computed = (Object.keys(opRules) as OpName[]).filter((op) => opRules[op].kind === "ruled")
  expect(computed.filter((op) => !covered.has(op))).toEqual([])
  expect([...covered].filter((op) => !computed.includes(op as OpName))).toEqual([])
})
