/** Weights that the server keeps in a layout of its own: no command shows anything of it. */
import { afterAll, beforeAll, expect, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Command, Fnv1a64, type RpcTensor, typeId } from "@ggml-rpc/protocol"
import { f32Tensor, node, type TestBuffer, TestClient, toFloats } from "./TestClient.ts"
import { startServer } from "./withServer.ts"

const [COLUMNS, ROWS, COUNT] = [1024, 512, 6]
const BLOCK_BYTES = 18
const ROW_BYTES = (COLUMNS / 32) * BLOCK_BYTES
const WEIGHT_BYTES = ROW_BYTES * ROWS

/** Where the input and the results lie, in a buffer of their own. */
const RESULT = COLUMNS * COUNT * 4

/** Larger than what is answered from the outbox. */
const LARGE = 100_000

type Server = Awaited<ReturnType<typeof startServer>>
let repacking: Server
let plain: Server
let folder: string

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-repack-"))
  const options = { cacheDir: folder, cacheMinBytes: 1, addressLimits: false }
  repacking = await startServer(options)
  plain = await startServer({ ...options, repack: false })
})

afterAll(async () => {
  await Promise.all([repacking.stop(), plain.stop()])
  rmSync(folder, { recursive: true })
})

/** Q4_0 blocks of some scale, and of any quants. */
const weightBytes = (seed: number): Uint8Array => {
  const bytes = new Uint8Array(WEIGHT_BYTES)
  for (let at = 0; at < bytes.length; at++) bytes[at] = Math.imul(at + seed, 2654435761) >>> 13
  const view = new DataView(bytes.buffer)
  for (let at = 0; at < bytes.length; at += BLOCK_BYTES) {
    view.setFloat16(at, 0.01 + (at % 7) / 1000, true)
  }
  return bytes
}

const input = new Uint8Array(
  Float32Array.from({ length: COLUMNS * COUNT }, (_, at) => Math.sin(at)).buffer,
)

const quantized = (
  id: number,
  { remotePtr, basePtr }: TestBuffer,
  type: string,
  ne: readonly [number, number],
  offset = 0,
): RpcTensor => {
  const rowBytes = (ne[0] / 32) * BLOCK_BYTES
  const size = rowBytes * ne[1]
  const nb = [BLOCK_BYTES, rowBytes, size, size]
  const fields = { type: typeId(type), nb, data: basePtr + BigInt(offset) }
  return f32Tensor(id, { remotePtr, basePtr }, 0, ne, fields)
}

/** A client with a weight that its graph has multiplied, `expected` being the weight's bytes. */
const open = async (server: Server) => {
  const client = await TestClient.connect(server.port)
  const weights = await client.allocate(2 * WEIGHT_BYTES)
  const others = await client.allocate(2 ** 20)
  const weight = quantized(1, weights, "Q4_0", [COLUMNS, ROWS])
  const state = { expected: weightBytes(1) }
  client.setTensor(weight, state.expected)
  client.setTensor(f32Tensor(2, others, 0, [COLUMNS, COUNT]), input)
  /** The products of a weight with the same memory. */
  const multiply = async (by = weight, uid = 1n): Promise<number[]> => {
    const [columns, rows] = by.ne
    const tensors = [
      by,
      f32Tensor(2, others, 0, [columns!, COUNT]),
      f32Tensor(3, others, RESULT, [rows!, COUNT], node("MUL_MAT", by.id, 2)),
    ]
    client.send(Command.GRAPH_COMPUTE, { uid, device: 0, nodes: [3n], tensors })
    return toFloats(await client.getTensor(tensors[2]!, rows! * COUNT * 4))
  }
  /** Rows of the weight. */
  const look = async (): Promise<number[]> => {
    const ids = f32Tensor(4, others, 2 ** 19, [2], { type: typeId("I32") })
    client.setTensor(ids, new Uint8Array(Int32Array.of(1, ROWS - 1).buffer))
    const rows = f32Tensor(5, others, 2 ** 19 + 64, [COLUMNS, 2], node("GET_ROWS", 1, 4))
    const tensors = [weight, ids, rows]
    client.send(Command.GRAPH_COMPUTE, { uid: 2n, device: 0, nodes: [5n], tensors })
    return toFloats(await client.getTensor(rows, COLUMNS * 8))
  }
  const again = (uid = 1n): void => client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid })
  const all = (): Promise<Uint8Array> => client.getTensor(weight, WEIGHT_BYTES)
  return { client, weights, others, weight, state, multiply, look, again, all }
}

type Opened = Awaited<ReturnType<typeof open>>

const distance = (found: readonly number[], expected: readonly number[]): number => {
  const squares = (values: readonly number[]): number =>
    values.reduce((sum, value) => sum + value * value, 0)
  return squares(expected.map((value, at) => value - found[at]!)) / squares(expected)
}

/** What clients do with a weight; the bytes that they change, they change in `expected`. */
const touches: Readonly<Record<string, (opened: Opened) => Promise<void> | void>> = {
  nothing: () => {},
  "GET_TENSOR of a few bytes": async ({ client, weight, state }) => {
    const bytes = await client.getTensor(weight, 7, 12_345)
    expect([...bytes]).toEqual([...state.expected.subarray(12_345, 12_352)])
  },
  "GET_TENSOR of many": async ({ client, weight, state }) => {
    const bytes = await client.getTensor(weight, LARGE, 777)
    expect(Buffer.compare(bytes, state.expected.subarray(777, 777 + LARGE))).toBe(0)
  },
  "GET_TENSOR of another tensor over its end": async ({ client, weights, state }) => {
    const end = f32Tensor(9, weights, WEIGHT_BYTES - 64, [32])
    const bytes = await client.getTensor(end, 128)
    expect(Buffer.compare(bytes.subarray(0, 64), state.expected.subarray(-64))).toBe(0)
  },
  "SET_TENSOR of all": ({ client, weight, state }) => {
    state.expected = weightBytes(5)
    client.setTensor(weight, state.expected)
  },
  "SET_TENSOR of a part": ({ client, weight, state }) => {
    const part = weightBytes(9).subarray(0, 40 * BLOCK_BYTES)
    state.expected.set(part, 11 * BLOCK_BYTES)
    client.setTensor(weight, part, 11 * BLOCK_BYTES)
  },
  "SET_TENSOR that is cached": async ({ client, weight, state }) => {
    const part = weightBytes(11).subarray(0, LARGE - (LARGE % BLOCK_BYTES))
    state.expected.set(part, WEIGHT_BYTES - part.length)
    client.setTensor(weight, part, WEIGHT_BYTES - part.length, 1)
    const hash = new Fnv1a64().update(part).digest()
    // Once more, from the cache.
    const request = { tensor: weight, offsetBytes: BigInt(WEIGHT_BYTES - part.length), hash }
    expect((await client.ask(Command.SET_TENSOR_HASH, request)).result).toBe(1)
  },
  MEMSET_TENSOR: ({ client, weight, state }) => {
    const [offset, size] = [5 * BLOCK_BYTES + 2, 16]
    state.expected.fill(0x5a, offset, offset + size)
    const range = { offsetBytes: BigInt(offset), sizeBytes: BigInt(size), value: 0x5a }
    client.send(Command.MEMSET_TENSOR, { tensor: weight, ...range })
  },
  GET_TENSOR_2D: async ({ client, weight, state }) => {
    const runs = { offsetBytes: 4n, sizeBytes: 2n, runCount: 9n, strideBytes: BigInt(ROW_BYTES) }
    const { data } = await client.ask(Command.GET_TENSOR_2D, { tensor: weight, ...runs })
    const expected = Array.from({ length: 9 }, (_, run) => [
      ...state.expected.subarray(4 + run * ROW_BYTES, 6 + run * ROW_BYTES),
    ])
    expect([...data]).toEqual(expected.flat())
  },
  SET_TENSOR_2D: ({ client, weight, state }) => {
    const runs = { offsetBytes: 4n, sizeBytes: 2n, runCount: 9n, strideBytes: BigInt(ROW_BYTES) }
    const data = Uint8Array.from({ length: 18 }, (_, at) => 255 - at)
    client.send(Command.SET_TENSOR_2D, { tensor: weight, ...runs, data })
    for (let run = 0; run < 9; run++) {
      state.expected.set(data.subarray(2 * run, 2 * run + 2), 4 + run * ROW_BYTES)
    }
  },
  "COPY_TENSOR from it": async ({ client, weight, weights, state }) => {
    const copy = quantized(9, weights, "Q4_0", [COLUMNS, ROWS], WEIGHT_BYTES)
    expect((await client.ask(Command.COPY_TENSOR, { src: weight, dst: copy })).result).toBe(1)
    const bytes = await client.getTensor(copy, WEIGHT_BYTES)
    expect(Buffer.compare(bytes, state.expected)).toBe(0)
  },
  "COPY_TENSOR onto it": async ({ client, weight, weights, state }) => {
    const copy = quantized(9, weights, "Q4_0", [COLUMNS, ROWS], WEIGHT_BYTES)
    state.expected = weightBytes(21)
    client.setTensor(copy, state.expected)
    expect((await client.ask(Command.COPY_TENSOR, { src: copy, dst: weight })).result).toBe(1)
  },
  "COPY_TENSOR beyond a smaller tensor before it": async ({ client, weights, state }) => {
    const source = f32Tensor(9, weights, WEIGHT_BYTES, [1024])
    const data = weightBytes(33).subarray(0, 4096)
    client.setTensor(source, data)
    const target = f32Tensor(10, weights, 0, [1])
    expect((await client.ask(Command.COPY_TENSOR, { src: source, dst: target })).result).toBe(1)
    state.expected.set(data)
  },
  BUFFER_CLEAR: ({ client, weights, state }) => {
    state.expected = new Uint8Array(WEIGHT_BYTES).fill(0x11)
    client.send(Command.BUFFER_CLEAR, { remotePtr: weights.remotePtr, value: 0x11 })
  },
  "a graph that reads rows of it": async ({ look, state }) => {
    const rows = await look()
    const scale = new DataView(state.expected.buffer).getFloat16(ROW_BYTES, true)
    expect(rows[0]).toBeCloseTo(scale * ((state.expected[ROW_BYTES + 2]! & 15) - 8), 5)
  },
  "a graph over another shape of it": async ({ multiply, weights }) => {
    await multiply(quantized(1, weights, "Q4_0", [COLUMNS / 2, ROWS * 2]), 3n)
  },
  "a graph over another type of it": async ({ multiply, weights }) => {
    await multiply(quantized(1, weights, "IQ4_NL", [COLUMNS, ROWS]), 3n)
  },
  "a graph that writes into it": async ({ client, weights, others, all, state }) => {
    const tensors = [
      f32Tensor(2, others, 0, [COLUMNS]),
      f32Tensor(3, weights, 640, [COLUMNS]),
      f32Tensor(4, weights, 640, [COLUMNS], node("CPY", 2, 3)),
    ]
    client.send(Command.GRAPH_COMPUTE, { uid: 4n, device: 0, nodes: [4n], tensors })
    state.expected.set(input.subarray(0, COLUMNS * 4), 640)
    expect(Buffer.compare(await all(), state.expected)).toBe(0)
  },
  "another buffer that goes": async ({ client }) => {
    const { remotePtr } = await client.allocate(4096)
    client.send(Command.FREE_BUFFER, { remotePtr })
  },
}

/** The rows of blocks that were changed are no numbers: nothing to compare products by. */
const leavesNoScales = new Set([
  "SET_TENSOR_2D",
  "COPY_TENSOR beyond a smaller tensor before it",
  "BUFFER_CLEAR",
  "a graph that writes into it",
])

test("the products are those of a server that does not, but for rounding", async () => {
  expect(repacking.repacked).toContain("Q4_0")
  expect(plain.repacked).toEqual([])
  const [one, other] = await Promise.all([open(repacking), open(plain)])
  const [found, expected] = await Promise.all([one.multiply(), other.multiply()])
  expect(distance(found, expected)).toBeLessThan(1e-5)
  // By which it shows at all that a layout was used.
  expect(found).not.toEqual(expected)
  for (const { client } of [one, other]) client.close()
})

test.each(Object.entries(touches))(
  "%s between graphs: the bytes are the client's, and so is what they make",
  async (name, touch) => {
    const [one, other] = await Promise.all([open(repacking), open(plain)])
    for (const opened of [one, other]) {
      // From the third time on it stays as it is.
      for (let round = 0; round < 3; round++) {
        await opened.multiply()
        await touch(opened)
        opened.again()
      }
    }
    expect(Buffer.compare(await one.all(), one.state.expected)).toBe(0)
    expect(Buffer.compare(await other.all(), one.state.expected)).toBe(0)
    const [found, expected] = [await one.multiply(), await other.multiply()]
    if (!leavesNoScales.has(name)) expect(distance(found, expected)).toBeLessThan(1e-5)
    for (const { client } of [one, other]) client.close()
  },
)

test("a buffer that goes with its weights leaves nothing to the next", async () => {
  const opened = await open(repacking)
  const { client, weights, multiply } = opened
  await multiply()
  client.send(Command.FREE_BUFFER, { remotePtr: weights.remotePtr })
  const next = await client.allocate(2 * WEIGHT_BYTES)
  const bytes = await client.getTensor(f32Tensor(9, next, 0, [1024]), 4096)
  expect(bytes.every((byte) => byte === 0)).toBe(true)
  client.close()
})
