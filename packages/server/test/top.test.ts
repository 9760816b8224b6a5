/** GET_TENSOR_TOP: the largest values of rows of F32 tensors. */
import { describe, expect, test } from "bun:test"
import {
  Command,
  encodeExtensionRequest,
  formatVersion,
  MAX_TOP_COUNT,
  MAX_TOP_ROW,
  newest,
  type RpcTensor,
  TOP_VALUE_BYTES,
  versions,
} from "@ggml-rpc/protocol"
import { isAlive, serversOfBothMemories } from "./bothMemories.ts"
import { f32Tensor, floats, TestClient } from "./TestClient.ts"
import { startServer } from "./withServer.ts"

const servers = serversOfBothMemories()

type Found = ReadonlyArray<readonly [number, number]>

const ask = (tensor: RpcTensor, offset: bigint, sizeBytes: bigint, count: number) =>
  encodeExtensionRequest("GET_TENSOR_TOP", { tensor, offsetBytes: offset, sizeBytes, count })

/** Of `rowCount` rows from row `first` on. */
const top = async (
  client: TestClient,
  tensor: RpcTensor,
  first: number,
  rowCount: number,
  count: number,
): Promise<ReadonlyArray<Found>> => {
  const rowBytes = 4 * tensor.ne[0]!
  client.write(ask(tensor, BigInt(first * rowBytes), BigInt(rowCount * rowBytes), count))
  const size = rowCount * count * TOP_VALUE_BYTES
  const answer = await client.read(8 + size)
  const view = new DataView(answer.buffer, answer.byteOffset)
  expect(view.getBigUint64(0, true)).toBe(BigInt(size))
  return Array.from({ length: rowCount }, (_, row) =>
    Array.from({ length: count }, (_, place) => {
      const at = 8 + (row * count + place) * TOP_VALUE_BYTES
      return [view.getUint32(at, true), view.getFloat32(at + 4, true)] as const
    }),
  )
}

/** Value `(index * 7 + row) % columns`: each once where 7 divides it not. */
const rowsOf = (rowCount: number, columns: number): Float32Array =>
  Float32Array.from(
    { length: rowCount * columns },
    (_, at) => ((at % columns) * 7 + Math.floor(at / columns)) % columns,
  )

const expected = (rows: Float32Array, columns: number, row: number, count: number): Found =>
  Array.from(rows.subarray(row * columns, (row + 1) * columns), (value, at) => [at, value] as const)
    .sort(([, a], [, b]) => b - a)
    .slice(0, count)
    .sort(([a], [b]) => a - b)

describe.each([
  ["straight in host memory", () => servers.direct],
  ["through the backend, as on a GPU", () => servers.staged],
])("%s", (_, server) => {
  // An answer in the outbox with others, one beyond it, of more rows than the staging block holds, and of as many values as there are.
  test.each([
    [1, 16_000, 64],
    [32, 16_000, 64],
    [3, 200_000, MAX_TOP_COUNT],
    [4000, 10, 10],
    [1, 1, 1],
  ])("%d rows of %d values, of which %d are asked for", async (rowCount, columns, count) => {
    const client = await TestClient.connect(server().port)
    const rows = rowsOf(rowCount, columns)
    const tensor = f32Tensor(1, await client.allocate(rows.byteLength), 0, [columns, rowCount])
    client.setTensor(tensor, new Uint8Array(rows.buffer))
    const found = await top(client, tensor, 0, rowCount, count)
    for (const row of new Set([0, rowCount >> 1, rowCount - 1])) {
      expect(found[row]).toEqual(expected(rows, columns, row, count))
    }
    const [last] = await top(client, tensor, rowCount - 1, 1, 1)
    expect(last).toEqual(expected(rows, columns, rowCount - 1, 1))
    await isAlive(client)
    client.close()
  })

  test("rows as long as they may be, in a tensor of more than two dimensions", async () => {
    const client = await TestClient.connect(server().port)
    const buffer = await client.allocate(2 * 4 * MAX_TOP_ROW)
    const tensor = f32Tensor(1, buffer, 0, [MAX_TOP_ROW, 1, 2])
    client.setTensor(tensor, floats(5), 4 * (MAX_TOP_ROW - 1))
    client.setTensor(tensor, floats(7), 4 * (MAX_TOP_ROW + 3))
    expect(await top(client, tensor, 0, 2, 1)).toEqual([[[MAX_TOP_ROW - 1, 5]], [[3, 7]]])
    client.close()
  })

  test("of equal ones the first, and what is not a number last", async () => {
    const client = await TestClient.connect(server().port)
    const tensor = f32Tensor(1, await client.allocate(64), 0, [8, 2])
    const nan = Number.NaN
    client.setTensor(tensor, floats(nan, 1, 2, 2, 1, 2, nan, 0, nan, nan, nan, -Infinity, 3, nan))
    expect(await top(client, tensor, 0, 1, 2)).toEqual([
      [
        [2, 2],
        [3, 2],
      ],
    ])
    expect((await top(client, tensor, 0, 1, 4))[0]!.map(([at]) => at)).toEqual([1, 2, 3, 5])
    expect((await top(client, tensor, 0, 1, 8))[0]!.map(([, value]) => value)).toEqual([
      ...[nan, 1, 2, 2, 1, 2, nan, 0],
    ])
    expect(await top(client, tensor, 1, 1, 1)).toEqual([[[4, 3]]])
    client.close()
  })
})

test("between other requests, and of no rows", async () => {
  const client = await TestClient.connect(servers.direct.port)
  const buffer = await client.allocate(64)
  const [first, second] = [f32Tensor(1, buffer, 0, [2, 2]), f32Tensor(2, buffer, 32, [2, 2])]
  client.setTensor(first, floats(1, -2, 3.5, 4))
  client.send(Command.COPY_TENSOR, { src: first, dst: second })
  client.write(ask(second, 8n, 8n, 1))
  expect((await client.answer(Command.COPY_TENSOR)).result).toBe(1)
  expect([...(await client.read(16)).subarray(8)]).toEqual([1, 0, 0, 0, 0, 0, 0x80, 0x40])
  expect(await top(client, first, 2, 0, 1)).toEqual([])
  await isAlive(client)
  client.close()
})

describe("what is no question for values of rows ends the session", () => {
  const huge = 2n ** 64n - 1n
  const f16 = { type: 1, nb: [2, 8, 16, 16] }
  const gaps = { ne: [2, 2, 1, 1], nb: [8, 16, 32, 32] }
  const permuted = { ne: [2, 4, 1, 1], nb: [16, 4, 32, 32] }
  const outside = { ne: [4, 64, 1, 1], nb: [4, 16, 1024, 1024] }
  const nothing = { ne: [0, 2, 1, 1], nb: [4, 0, 0, 0] }
  const wide = { ne: [MAX_TOP_ROW + 1, 1, 1, 1], nb: [4, ...Array(3).fill(4 * (MAX_TOP_ROW + 1))] }

  test.each<readonly [string, Partial<RpcTensor>, bigint, bigint, number, string]>([
    ["halves", f16, 0n, 16n, 1, "tensor.type must be F32"],
    ["a tensor with gaps", gaps, 0n, 8n, 1, "tensor.nb must leave no gaps"],
    ["a tensor that is permuted", permuted, 0n, 8n, 1, "tensor.nb must leave no gaps"],
    ["a tensor beyond its buffer", outside, 0n, 16n, 1, "tensor.nb reaches"],
    ["a tensor in no buffer", { buffer: 77n }, 0n, 16n, 1, "tensor.buffer is no buffer"],
    ["rows that are too long", wide, 0n, 0n, 1, `must be at most ${MAX_TOP_ROW} wide`],
    ["rows of no values", nothing, 0n, 0n, 1, "tensor.ne"],
    ["none of the values", {}, 0n, 16n, 0, "count must be from 1 to 4"],
    ["more values than there are", {}, 0n, 16n, 5, "count must be from 1 to 4"],
    ["as many as a number can say", {}, 0n, 16n, 2 ** 32 - 1, "count must be from 1 to 4"],
    ["an offset within a row", {}, 4n, 16n, 1, "offset must be a multiple of 16"],
    ["a size of no whole rows", {}, 0n, 12n, 1, "size must be a multiple of 16"],
    ["an offset behind the tensor", {}, 48n, 0n, 1, "offset lies outside"],
    ["a size that ends behind it", {}, 16n, 32n, 1, "size exceeds the 16 bytes"],
    ["an offset beyond 2^53", {}, huge, 16n, 1, "offset lies outside"],
    ["a size beyond 2^53", {}, 0n, huge, 1, "size exceeds"],
  ])("%s", async (_, fields, offsetBytes, sizeBytes, count, text) => {
    const client = await TestClient.connect(servers.direct.port)
    const size = fields === wide ? 4 * (MAX_TOP_ROW + 1) : 32
    const tensor = f32Tensor(1, await client.allocate(size), 0, [4, 2], fields)
    client.write(ask(tensor, offsetBytes, sizeBytes, count))
    await client.closed
    await servers.direct.logged("GET_TENSOR_TOP", text)
  })

  test("more than may be asked for", async () => {
    const client = await TestClient.connect(servers.direct.port)
    const columns = MAX_TOP_COUNT + 8
    const tensor = f32Tensor(1, await client.allocate(4 * columns), 0, [columns])
    client.write(ask(tensor, 0n, BigInt(4 * columns), MAX_TOP_COUNT + 1))
    await client.closed
    await servers.direct.logged("GET_TENSOR_TOP", `count must be from 1 to ${MAX_TOP_COUNT}`)
  })

  test.each([315, 317])("a request of %d bytes", async (sizeBytes) => {
    const client = await TestClient.connect(servers.direct.port)
    const request = new Uint8Array(9 + sizeBytes)
    request[0] = 143
    new DataView(request.buffer).setBigUint64(1, BigInt(sizeBytes), true)
    client.write(request)
    await client.closed
    await servers.direct.logged("GET_TENSOR_TOP", "payload_size")
  })

  test("before HELLO, and by a client that was not told of it", async () => {
    const tensor = f32Tensor(1, { remotePtr: 1n, basePtr: 4096n }, 0, [8])
    const early = await TestClient.open(servers.direct.port)
    early.write(ask(tensor, 0n, 32n, 1))
    await early.closed
    const old = versions.find(({ version }) => version.major < 4)!
    expect(old).not.toBe(newest)
    const server = await startServer({ logWindowMs: 0, protocol: formatVersion(old.version) })
    const client = await TestClient.meet(server.port, false)
    client.write(ask(tensor, 0n, 32n, 1))
    await client.closed
    await server.logged("command is unknown")
    await server.stop()
  })
})
