/** Indices are looked at right before a node uses them, wherever they come from, on every run. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { Command, type RpcTensor, typeId } from "@ggml-rpc/protocol"
import { f32Tensor, floats, node, type TestBuffer, TestClient } from "./TestClient.ts"
import { tensorsOf, VALID_NODE_BYTES, type ValidNode, validNodes } from "./validNodes.ts"
import { startServer } from "./withServer.ts"

const I32 = typeId("I32")
const I64 = typeId("I64")

let server: Awaited<ReturnType<typeof startServer>>

beforeAll(async () => {
  server = await startServer({ allowTraining: true, addressLimits: false, logWindowMs: 0 })
})

afterAll(() => server.stop())

const open = async (sizeBytes = VALID_NODE_BYTES) => {
  const { port, log } = server
  const linesBefore = log.length
  const client = await TestClient.connect(port)
  const buffer = await client.allocate(sizeBytes)
  client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 0 })
  const compute = (tensors: readonly RpcTensor[], nodes: readonly number[]): void =>
    client.send(Command.GRAPH_COMPUTE, { uid: 1n, device: 0, nodes: nodes.map(BigInt), tensors })
  const recompute = (): void => client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 1n })
  const lives = (): Promise<unknown> => client.ask(Command.DEVICE_COUNT, {})
  /** Ends with one line that contains all of the texts. */
  const refused = async (...texts: readonly string[]): Promise<void> => {
    await client.closed
    const lines = (): string[] =>
      log.slice(linesBefore).flatMap(({ level, message }) => (level === "error" ? message : []))
    while (lines().length === 0) await Bun.sleep(5)
    expect(lines()).toHaveLength(1)
    for (const text of texts) expect(lines()[0]).toContain(text)
  }
  return { client, buffer, compute, recompute, lives, refused }
}

const integers = ({ type }: RpcTensor, ...values: readonly number[]): Uint8Array =>
  new Uint8Array(
    type === I64 ? BigInt64Array.from(values, BigInt).buffer : Int32Array.from(values).buffer,
  )

/** A dense tensor of I32, or of I64. */
const ids = (
  id: number,
  buffer: TestBuffer,
  offset: number,
  ne: readonly number[],
  fields: Partial<RpcTensor> = {},
): RpcTensor => {
  const tensor = f32Tensor(id, buffer, offset, ne, { type: I32 })
  return { ...tensor, ...fields }
}

interface Indexing {
  readonly node: ValidNode
  readonly source: number
  readonly limit: number
  readonly along: string
}

const nodeWith = (op: string, ...types: readonly string[]): ValidNode => {
  const found = validNodes.find(
    (valid) =>
      valid.op === op && types.every((type) => valid.sources.some((text) => text.startsWith(type))),
  )
  if (found === undefined) throw new Error(`no valid node of ${op} with ${types}`)
  return found
}

const indexing: readonly Indexing[] = [
  { node: nodeWith("GET_ROWS", "F32"), source: 1, limit: 5, along: "src[0]'s ne[1]" },
  { node: nodeWith("GET_ROWS_BACK"), source: 1, limit: 5, along: "the result's ne[1]" },
  { node: nodeWith("SET_ROWS", "I64"), source: 1, limit: 5, along: "the result's ne[1]" },
  { node: nodeWith("SET_ROWS", "I32"), source: 1, limit: 5, along: "the result's ne[1]" },
  { node: nodeWith("MUL_MAT_ID"), source: 2, limit: 4, along: "src[0]'s ne[2]" },
  { node: nodeWith("ADD_ID"), source: 2, limit: 3, along: "src[1]'s ne[1]" },
  { node: nodeWith("SSM_SCAN"), source: 6, limit: 2, along: "src[0]'s ne[3]" },
]

const nameOf = ({ node: { op, sources }, source }: Indexing): string =>
  `${op} by ${sources[source]}`

describe.each(indexing.map((entry) => [nameOf(entry), entry] as const))("%s", (_, entry) => {
  const { node: valid, source, limit, along } = entry
  /** The node, the tensor of its indices, and their number. */
  const prepare = (buffer: TestBuffer) => {
    const tensors = tensorsOf(valid, buffer)
    const indices = tensors[source]!
    return {
      tensors,
      indices,
      count: indices.ne.reduce((all, size) => all * size),
      result: tensors.length,
    }
  }

  test("the last index of all may be the largest", async () => {
    const { client, buffer, compute, lives } = await open()
    const { tensors, indices, count, result } = prepare(buffer)
    client.setTensor(indices, integers(indices, ...Array(count - 1).fill(0), limit - 1))
    compute(tensors, [result])
    await lives()
    client.close()
  })

  test.each([
    ["one more", limit],
    ["-1", -1],
  ])("%s is refused, uploaded", async (_name, value) => {
    const { client, buffer, compute, refused } = await open()
    const { tensors, indices, count, result } = prepare(buffer)
    client.setTensor(indices, integers(indices, ...Array(count - 1).fill(0), value))
    compute(tensors, [result])
    const where = `GRAPH_COMPUTE: tensors[${result - 1}].src[${source}] must be at least 0 and below ${limit}`
    await refused(where, `as ${valid.op} takes it for an index along ${along} (got ${value})`)
  })

  test("it is refused, computed by a node before", async () => {
    const { client, buffer, compute, recompute, lives, refused } = await open()
    const { tensors, indices, count, result } = prepare(buffer)
    const input = { ...indices, id: 100n, data: buffer.basePtr + BigInt(VALID_NODE_BYTES - 1024) }
    tensors[source] = { ...indices, ...node("CONT", 100) }
    compute([...tensors, input], [source + 1, result])
    await lives()
    client.setTensor(input, integers(indices, ...Array(count - 1).fill(0), limit))
    recompute()
    await refused("GRAPH_RECOMPUTE: tensors[", `as ${valid.op} takes it`, `(got ${limit})`)
  })
})

/** Four rows of eight floats, and as many indices as `ne` says, of rows that `rows` gets. */
const gathering = async (ne: readonly number[], fields: Partial<RpcTensor> = {}) => {
  const session = await open(8192)
  const { buffer } = session
  const table = f32Tensor(1, buffer, 0, [8, 4])
  const indices = ids(2, buffer, 1024, ne, fields)
  const rows = f32Tensor(3, buffer, 2048, [8, ne[0]!, ne[1] ?? 1], node("GET_ROWS", 1, 2))
  return { ...session, table, indices, rows }
}

test("a value is named with its place", async () => {
  const { client, table, indices, rows, compute, refused } = await gathering([4])
  client.setTensor(indices, integers(indices, 0, 1, 2 ** 31 - 1, 4))
  compute([table, indices, rows], [3])
  await refused("below 4 at [2,0,0,0]", "(got 2147483647)")
})

test("a bad index that comes after the first run is found", async () => {
  const { client, table, indices, rows, compute, recompute, lives, refused } = await gathering([4])
  compute([table, indices, rows], [3])
  recompute()
  await lives()
  client.setTensor(indices, integers(indices, 7), 12)
  recompute()
  await refused("GRAPH_RECOMPUTE: tensors[2].src[1]", "at [3,0,0,0]", "(got 7)")
})

test("strides say where indices are", async () => {
  const nb = [8, 32, 32, 32]
  const { client, buffer, table, indices, rows, compute, recompute, lives, refused } =
    await gathering([4], { nb })
  const memory = ids(4, buffer, 1024, [8])
  client.setTensor(memory, integers(memory, 0, 99, 1, 99, 2, 99, 3, 99))
  compute([table, indices, rows], [3])
  await lives()
  client.setTensor(memory, integers(memory, 4), 16)
  recompute()
  await refused("at [2,0,0,0]", "(got 4)")
})

test("who wrote the memory last counts, not whose it seems to be", async () => {
  const { client, buffer, table, indices, rows, compute, recompute, lives, refused } =
    await gathering([4])
  const bad = ids(4, buffer, 4096, [4])
  // Of a tensor that has nothing to do with the indices but that its end is in their memory.
  const other = ids(5, buffer, 1024 - 8, [4], node("CONT", 4))
  compute([table, indices, rows, bad, other], [5, 3])
  await lives()
  client.setTensor(bad, integers(bad, 0, 0, 0, 9))
  recompute()
  await refused("at [1,0,0,0]", "(got 9)")
})

test("indices that were in order once are looked at again when something wrote them since", async () => {
  const { client, buffer, table, indices, rows, compute, refused } = await gathering([4])
  const bad = ids(4, buffer, 4096, [4])
  const overwritten = ids(5, buffer, 1024, [4], node("CONT", 4))
  const again = f32Tensor(6, buffer, 3072, [8, 4], node("GET_ROWS", 1, 2))
  client.setTensor(bad, integers(bad, 0, 0, -5, 0))
  compute([table, indices, rows, bad, overwritten, again], [3, 5, 6])
  await refused("tensors[5].src[1]", "at [2,0,0,0]", "(got -5)")
})

test("what a later node writes does not matter, until the next run", async () => {
  const { client, buffer, table, indices, rows, compute, recompute, lives, refused } =
    await gathering([4])
  const bad = ids(4, buffer, 4096, [4])
  const overwritten = ids(5, buffer, 1024, [4], node("CONT", 4))
  client.setTensor(bad, integers(bad, 8, 8, 8, 8))
  compute([table, indices, rows, bad, overwritten], [3, 5])
  await lives()
  recompute()
  await refused("at [0,0,0,0]", "(got 8)")
})

test.each([
  ["a sorted order", false],
  ["a copy of a sorted order", true],
])("%s is one of indices as far as it goes, and no further", async (_, isCopied) => {
  const sorted = async (rowCount: number) => {
    const session = await open(8192)
    const { buffer } = session
    const values = f32Tensor(1, buffer, 0, [8])
    const order = ids(2, buffer, 1024, [8], node("ARGSORT", 1))
    const copy = ids(3, buffer, 1536, [8], node("CONT", 2))
    const [viewed, offset] = isCopied ? [3n, 1536] : [2n, 1024]
    const three = { ...ids(4, buffer, offset + 8, [3]), viewSrc: viewed, viewOffset: 8n }
    const table = f32Tensor(5, buffer, 2048, [4, rowCount])
    const rows = f32Tensor(6, buffer, 4096, [4, 3], node("GET_ROWS", 5, 4))
    session.client.setTensor(values, floats(0, 1, 2, 3, 4, 5, 6, 7))
    session.compute([values, order, copy, three, table, rows], isCopied ? [2, 3, 6] : [2, 6])
    return session
  }
  const enough = await sorted(8)
  await enough.lives()
  enough.client.close()
  const tooFew = await sorted(4)
  await tooFew.refused("tensors[5].src[1]", "below 4 at [2,0,0,0]", "(got 4)")
})

test("indices in the memory of the result are refused", async () => {
  const { table, indices, rows, buffer, compute, refused } = await gathering([4])
  compute([table, indices, { ...rows, data: buffer.basePtr + 1024n }], [3])
  await refused("tensors[2] cannot be computed: the result must not overlap src[1]")
})

test("a node that does not run needs no indices", async () => {
  const { client, buffer, table, indices, rows, compute, lives } = await gathering([4])
  client.setTensor(indices, integers(indices, 99, 99, 99, 99))
  const squares = f32Tensor(4, buffer, 4096, [8, 4], node("SQR", 1))
  compute([table, indices, { ...rows, flags: 0 }, squares], [3, 4])
  await lives()
  client.close()
})
