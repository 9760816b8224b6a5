/** GET_TENSOR_BF16 and SET_TENSOR_BF16: ranges of F32 tensors, rounded on the wire. */
import { describe, expect, test } from "bun:test"
import {
  Command,
  encodeExtensionRequest,
  formatVersion,
  newest,
  type RpcTensor,
  versions,
} from "@ggml-rpc/protocol"
import { bf16Vectors } from "../../protocol/fixtures/vectors.ts"
import { isAlive, serversOfBothMemories } from "./bothMemories.ts"
import { f32Tensor, floats, TestClient, toFloats } from "./TestClient.ts"
import { startServer } from "./withServer.ts"

const servers = serversOfBothMemories()

const get = async (
  client: TestClient,
  tensor: RpcTensor,
  offset: number,
  sizeBytes: number,
): Promise<Uint16Array> => {
  const range = { tensor, offsetBytes: BigInt(offset), sizeBytes: BigInt(sizeBytes) }
  client.write(encodeExtensionRequest("GET_TENSOR_BF16", range))
  const answer = await client.read(8 + sizeBytes / 2)
  const view = new DataView(answer.buffer, answer.byteOffset)
  expect(view.getBigUint64(0, true)).toBe(BigInt(sizeBytes / 2))
  return new Uint16Array(Uint8Array.from(answer.subarray(8)).buffer)
}

const set = (client: TestClient, tensor: RpcTensor, offset: number, halves: Uint16Array): void =>
  client.write(
    encodeExtensionRequest("SET_TENSOR_BF16", {
      tensor,
      offsetBytes: BigInt(offset),
      data: new Uint8Array(halves.buffer),
    }),
  )

const widened = (halves: Uint16Array): Uint8Array =>
  new Uint8Array(Uint32Array.from(halves, (half) => half * 65_536).buffer)

describe.each([
  ["straight in host memory", () => servers.direct],
  ["through the backend, as on a GPU", () => servers.staged],
])("%s", (_, server) => {
  test("floats are rounded as upstream rounds them, NaN, infinities and the smallest among them", async () => {
    const client = await TestClient.connect(server().port)
    const bits = Uint32Array.from(bf16Vectors, ({ f32Bits }) => f32Bits)
    const tensor = f32Tensor(1, await client.allocate(bits.byteLength), 0, [bits.length])
    client.setTensor(tensor, new Uint8Array(bits.buffer))
    const halves = await get(client, tensor, 0, bits.byteLength)
    expect([...halves]).toEqual(bf16Vectors.map(({ bf16 }) => bf16))
    set(client, tensor, 0, halves)
    expect(await client.getTensor(tensor, bits.byteLength)).toEqual(widened(halves))
    client.close()
  })

  // In the outbox with others, beyond it, and beyond what is converted at once.
  test.each([1, 8193, 600_001])("%d values, of which nothing else changes", async (count) => {
    const client = await TestClient.connect(server().port)
    const buffer = await client.allocate(4 * (count + 8))
    const all = f32Tensor(1, buffer, 0, [count + 8])
    const before = Uint32Array.from(
      { length: count + 8 },
      (_, index) => (index * 2_654_435_761) >>> 0,
    )
    client.setTensor(all, new Uint8Array(before.buffer))
    const tensor = f32Tensor(2, buffer, 8, [count + 4])
    const halves = Uint16Array.from({ length: count }, (_, index) => (index * 40_503) & 0x7f7f)
    set(client, tensor, 4, halves)
    expect(await get(client, tensor, 4, 4 * count)).toEqual(halves)
    const read = await client.getTensor(all, before.byteLength)
    const after = new Uint32Array(Uint8Array.from(read).buffer)
    expect(after.subarray(0, 3)).toEqual(before.subarray(0, 3))
    expect(after.subarray(3 + count)).toEqual(before.subarray(3 + count))
    expect(Buffer.compare(new Uint8Array(after.slice(3, 3 + count).buffer), widened(halves))).toBe(
      0,
    )
    await isAlive(client)
    client.close()
  })
})

test("between other requests, behind an answer of one byte, and of nothing", async () => {
  const client = await TestClient.connect(servers.direct.port)
  const buffer = await client.allocate(64)
  const [first, second] = [f32Tensor(1, buffer, 0, [4]), f32Tensor(2, buffer, 32, [4])]
  client.setTensor(first, floats(1, -2, 3.5, 0.25))
  client.send(Command.COPY_TENSOR, { src: first, dst: second })
  const range = { tensor: second, offsetBytes: 4n, sizeBytes: 8n }
  client.write(encodeExtensionRequest("GET_TENSOR_BF16", range))
  expect((await client.answer(Command.COPY_TENSOR)).result).toBe(1)
  expect([...(await client.read(12)).subarray(8)]).toEqual([0x00, 0xc0, 0x60, 0x40])
  set(client, first, 16, new Uint16Array(0))
  expect(await get(client, first, 16, 0)).toHaveLength(0)
  expect(toFloats(await client.getTensor(first, 16))).toEqual([1, -2, 3.5, 0.25])
  client.close()
})

describe("what is no range of floats ends the session", () => {
  const huge = 2n ** 64n - 1n
  const f16 = { type: 1, nb: [2, 16, 16, 16] }
  const gaps = { ne: [4, 1, 1, 1], nb: [8, 32, 32, 32] }
  const outside = { ne: [64, 1, 1, 1], nb: [4, 256, 256, 256] }

  test.each<readonly [string, Partial<RpcTensor>, bigint, bigint, string]>([
    ["halves", f16, 0n, 8n, "tensor.type must be F32"],
    ["a tensor with gaps", gaps, 0n, 8n, "tensor.nb must leave no gaps"],
    ["a tensor beyond its buffer", outside, 0n, 8n, "tensor.nb reaches"],
    ["a tensor in no buffer", { buffer: 77n }, 0n, 8n, "tensor.buffer is no buffer"],
    ["an offset within a float", {}, 2n, 8n, "offset must be a multiple of 4"],
    ["a size of no whole floats", {}, 0n, 6n, "size must be a multiple of 4"],
    ["an offset behind the tensor", {}, 36n, 0n, "offset lies outside"],
    ["a size that ends behind it", {}, 28n, 8n, "size exceeds the 4 bytes"],
    ["an offset beyond 2^53", {}, huge, 4n, "offset lies outside"],
    ["a size beyond 2^53", {}, 0n, huge, "size exceeds"],
  ])("read: %s", async (_, fields, offsetBytes, sizeBytes, text) => {
    const client = await TestClient.connect(servers.direct.port)
    const tensor = f32Tensor(1, await client.allocate(32), 0, [8], fields)
    const range = { tensor, offsetBytes, sizeBytes }
    client.write(encodeExtensionRequest("GET_TENSOR_BF16", range))
    await client.closed
    await servers.direct.logged("GET_TENSOR_BF16", text)
  })

  test.each<readonly [string, Partial<RpcTensor>, bigint, number, string]>([
    ["halves", f16, 0n, 4, "tensor.type must be F32"],
    ["a tensor with gaps", gaps, 0n, 4, "tensor.nb must leave no gaps"],
    ["a tensor beyond its buffer", outside, 0n, 4, "tensor.nb reaches"],
    ["a tensor in no buffer", { buffer: 77n }, 0n, 4, "tensor.buffer is no buffer"],
    ["an offset within a float", {}, 1n, 4, "offset must be a multiple of 4"],
    ["half a value", {}, 0n, 5, "payload_size must hold whole values of 2 bytes"],
    ["one value too many", {}, 0n, 18, "payload_size exceeds the 32 bytes"],
    ["an offset behind the tensor", {}, 36n, 0, "offset lies outside"],
    ["an offset beyond 2^53", {}, huge, 4, "offset lies outside"],
  ])("write: %s", async (_, fields, offsetBytes, dataBytes, text) => {
    const client = await TestClient.connect(servers.direct.port)
    const tensor = f32Tensor(1, await client.allocate(32), 0, [8], fields)
    const data = new Uint8Array(dataBytes)
    client.write(encodeExtensionRequest("SET_TENSOR_BF16", { tensor, offsetBytes, data }))
    await client.closed
    await servers.direct.logged("SET_TENSOR_BF16", text)
  })

  test.each([
    ["GET_TENSOR_BF16", 141, 311],
    ["GET_TENSOR_BF16", 141, 313],
    ["SET_TENSOR_BF16", 142, 303],
  ] as const)("%s of another size", async (name, command, sizeBytes) => {
    const client = await TestClient.connect(servers.direct.port)
    const request = new Uint8Array(9 + sizeBytes)
    request[0] = command
    new DataView(request.buffer).setBigUint64(1, BigInt(sizeBytes), true)
    client.write(request)
    await client.closed
    await servers.direct.logged(name, "payload_size")
  })

  test("before HELLO, and by a client that was not told of it", async () => {
    const tensor = f32Tensor(1, { remotePtr: 1n, basePtr: 4096n }, 0, [8])
    const range = { tensor, offsetBytes: 0n, sizeBytes: 4n }
    const early = await TestClient.open(servers.direct.port)
    early.write(encodeExtensionRequest("GET_TENSOR_BF16", range))
    await early.closed
    const old = versions.find(({ version }) => version.major < 4)!
    expect(old).not.toBe(newest)
    const server = await startServer({ logWindowMs: 0, protocol: formatVersion(old.version) })
    const client = await TestClient.meet(server.port, false)
    client.write(encodeExtensionRequest("GET_TENSOR_BF16", range))
    await client.closed
    await server.logged("command is unknown")
    await server.stop()
  })
})
