/** Every command of every version, from clients of each numbering that a version may have. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import {
  ABSENT_TENSOR,
  Command,
  commandSpec,
  findOffer,
  formatVersion,
  HelloExtension,
  type Numbering,
  noConnCaps,
  type ProtocolSpec,
  type RpcTensor,
  TensorFlag,
  versions,
} from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { type LogEntry, type RunningServer, serve } from "../src/index.ts"
import { f32Tensor, floats, sources, type TestBuffer, TestClient, toFloats } from "./TestClient.ts"
import { tensorsOf, VALID_NODE_BYTES, validNodes } from "./validNodes.ts"

/** Names of `--protocol`: each version, and those that stand for any patch of one. */
const names = [...versions.map(({ version }) => formatVersion(version)), "3.6", "4.0"]

const scope = Effect.runSync(Scope.make())
let server: RunningServer
const log: LogEntry[] = []

beforeAll(async () => {
  const listen = names.map((protocol) => ({ port: 0, protocol }))
  const onLog = (entry: LogEntry): void => void log.push(entry)
  const options = {
    ...{ port: 0, threadCount: 1, debug: false, warmup: false, log: onLog, logWindowMs: 0, listen },
    // Each version is refused something a few times.
    addressLimits: false,
  }
  server = await Effect.runPromise(Scope.extend(serve(options), scope))
})
afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

const portOf = (name: string): number => {
  const { endpoint } = server.pinned.find(({ protocol }) => protocol === name)!
  return Number(endpoint.split(":").at(-1))
}

const connect = async (name: string, spec: ProtocolSpec): Promise<TestClient> => {
  const client = await TestClient.open(portOf(name), { spec })
  expect(await client.ask(Command.HELLO, { connCaps: noConnCaps() })).toMatchObject(spec.version)
  return client
}

const has = (spec: ProtocolSpec, command: number): boolean =>
  commandSpec(command, spec) !== undefined

/** A node in the numbers of a client, flagged where its version flags nodes. */
const nodeOf = (
  spec: ProtocolSpec,
  numbering: Numbering,
  op: string,
  ...ids: readonly number[]
): Partial<RpcTensor> => ({
  op: numbering.ops.indexOf(op),
  flags: spec.features.computeFlag ? TensorFlag.COMPUTE : 0,
  src: sources(...ids),
})

/** `-2 · (identity · x)`, by operations whose numbers moved. */
const graphOf = (spec: ProtocolSpec, numbering: Numbering, buffer: TestBuffer) => {
  const matrix = f32Tensor(1, buffer, 0, [4, 4])
  const x = f32Tensor(2, buffer, 64, [4])
  const negative = numbering.unaryOps.indexOf("NEG")
  const params = (...first: readonly number[]): number[] =>
    Array.from({ length: 16 }, (_, slot) => first[slot] ?? 0)
  const two = 0x4000_0000
  const product = f32Tensor(3, buffer, 128, [4], nodeOf(spec, numbering, "MUL_MAT", 1, 2))
  const scaled = f32Tensor(4, buffer, 192, [4], {
    ...nodeOf(spec, numbering, "SCALE", 3),
    opParams: params(two),
  })
  const result = f32Tensor(5, buffer, 256, [4], {
    ...nodeOf(spec, numbering, "UNARY", 4),
    opParams: params(negative),
    // Garbage, where the version has no such field.
    ...(spec.features.useCount ? {} : { useCount: 0x7fff_ffff }),
  })
  const identity = Array.from({ length: 16 }, (_, at) => (at % 5 === 0 ? 1 : 0))
  return {
    x,
    result,
    inputs: [
      [matrix, floats(...identity)],
      [x, floats(1, 2, 3, 4)],
    ] as const,
    request: {
      uid: 7n,
      device: 0,
      nodes: [3n, 4n, 5n],
      tensors: [matrix, x, product, scaled, result],
    },
  }
}

const cases = names.flatMap((name) => {
  const spec = findOffer(name)!
  return spec.numberings.map((numbering) => [name, numbering.name, spec, numbering] as const)
})

describe.each(cases)("protocol %s, %s", (name, _, spec, numbering) => {
  test("questions are answered, memory is written, filled, copied and read", async () => {
    const client = await connect(name, spec)
    const { features } = spec
    if (features.deviceField) {
      expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
    }
    const device = 0
    expect((await client.ask(Command.GET_ALIGNMENT, { device })).alignmentBytes).toBe(32n)
    expect((await client.ask(Command.GET_MAX_SIZE, { device })).maxSizeBytes).toBe(2n ** 64n - 1n)
    const memory = await client.ask(Command.GET_DEVICE_MEMORY, { device })
    expect(memory.totalBytes).toBeGreaterThan(memory.freeBytes)

    const buffer = await client.allocate(4096)
    const tensor = f32Tensor(1, buffer, 16, [8])
    const srcs = [f32Tensor(2, buffer, 0, [8]), ...Array<RpcTensor>(9).fill(ABSENT_TENSOR)]
    const { allocSizeBytes } = await client.ask(Command.GET_ALLOC_SIZE, { device, tensor, srcs })
    expect(allocSizeBytes).toBe(32n)

    await client.tell(Command.INIT_TENSOR, { tensor })
    await client.tell(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 0xab })
    client.setTensor(tensor, floats(1, 2, 3), 8)
    const expected = new Uint8Array(32).fill(0xab)
    expected.set(floats(1, 2, 3), 8)
    if (has(spec, Command.MEMSET_TENSOR)) {
      const range = { offsetBytes: 28n, sizeBytes: 4n }
      await client.tell(Command.MEMSET_TENSOR, { tensor, ...range, value: 9 })
      expected.fill(9, 28)
    }
    expect(await client.getTensor(tensor, 32)).toEqual(expected)
    expect(await client.getTensor(tensor, 0, 32)).toHaveLength(0)

    const dst = f32Tensor(3, buffer, 1024, [8])
    expect((await client.ask(Command.COPY_TENSOR, { src: tensor, dst })).result).toBe(1)
    expect(await client.getTensor(dst, 32)).toEqual(expected)
    const offer = { tensor, offsetBytes: 0n, hash: 1n }
    expect((await client.ask(Command.SET_TENSOR_HASH, offer)).result).toBe(0)

    await client.tell(Command.FREE_BUFFER, { remotePtr: buffer.remotePtr })
    // Not a byte too much came.
    const refused = await client.ask(Command.ALLOC_BUFFER, { device, sizeBytes: 2n ** 60n })
    expect(refused.remotePtr).toBe(0n)
    client.close()
  })

  test("a graph is computed, and again as far as graphs are kept", async () => {
    const client = await connect(name, spec)
    const { storedGraphs, graphStatus } = spec.features
    const buffer = await client.allocate(4096)
    const { x, result, inputs, request } = graphOf(spec, numbering, buffer)
    for (const [tensor, data] of inputs) client.setTensor(tensor, data)
    const answer = await client.tell(Command.GRAPH_COMPUTE, request)
    expect(answer).toEqual(graphStatus ? { status: 0 } : undefined)
    expect(toFloats(await client.getTensor(result, 16))).toEqual([-2, -4, -6, -8])

    client.setTensor(x, floats(5, 6, 7, 8))
    if (storedGraphs === "none") await client.tell(Command.GRAPH_COMPUTE, request)
    else client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 7n })
    expect(toFloats(await client.getTensor(result, 16))).toEqual([-10, -12, -14, -16])

    // Another graph, and the first one again: found by uid alone.
    const other = { ...request, uid: 8n, nodes: [3n], tensors: request.tensors.slice(0, 3) }
    await client.tell(Command.GRAPH_COMPUTE, other)
    client.setTensor(result, floats(0, 0, 0, 0))
    if (storedGraphs !== "none") client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 7n })
    const again = storedGraphs === "uid" ? [-10, -12, -14, -16] : [0, 0, 0, 0]
    expect(toFloats(await client.getTensor(result, 16))).toEqual(again.map((value) => value + 0))

    await client.tell(Command.FREE_BUFFER, { remotePtr: buffer.remotePtr })
    client.write(recompute(spec))
    await client.closed
  })

  test("what another version has is refused", async () => {
    const missing = Object.values(Command).filter((command) => !has(spec, command))
    for (const command of [...missing, Command.HELLO, 23, 255]) {
      const client = await connect(name, spec)
      client.write(new Uint8Array([command, ...Array(8).fill(0)]))
      await client.closed
    }
  })
})

/** A valid GATED_DELTA_NET in the numbers of a client. */
const gatedDeltaNet = (numbering: Numbering, buffer: TestBuffer): RpcTensor[] => {
  const valid = validNodes.find(({ op }) => op === "GATED_DELTA_NET")!
  const tensors = tensorsOf(valid, buffer)
  const node = tensors.at(-1)!
  return [...tensors.slice(0, -1), { ...node, op: numbering.ops.indexOf("GATED_DELTA_NET") }]
}

const fourth = findOffer("4.0")!

test.each(fourth.numberings.map((numbering) => [numbering.ops.length, numbering] as const))(
  "GATED_DELTA_NET of today's layout runs for the builds of 4.0 that have it: %i operations",
  async (opCount, numbering) => {
    const client = await connect("4.0", fourth)
    const buffer = await client.allocate(VALID_NODE_BYTES)
    const tensors = gatedDeltaNet(numbering, buffer)
    const node = tensors.at(-1)!
    client.send(Command.GRAPH_COMPUTE, { device: 0, uid: 0n, nodes: [node.id], tensors })
    // The first build's, with 96 operations, has another layout.
    if (opCount === 96) await client.closed
    else expect(await client.getTensor(node, 4)).toHaveLength(4)
    client.close()
  },
)

/** GRAPH_RECOMPUTE as the version has it, or as the next one where it has none. */
const recompute = ({ features }: ProtocolSpec): Uint8Array => {
  const size = features.storedGraphs === "uid" ? 12 : 4
  const bytes = new Uint8Array(9 + size)
  bytes.set([Command.GRAPH_RECOMPUTE, size])
  if (size === 12) bytes[9 + 4] = 7
  return bytes
}

const withCaps = names.filter((name) => findOffer(name)!.features.helloCaps)
const withoutCaps = names.filter((name) => !findOffer(name)!.features.helloCaps)

test.each(withCaps)("a client older than any of %s is told no version", async (name) => {
  const client = await TestClient.open(portOf(name), { spec: versions.at(-1)! })
  client.send(Command.HELLO, { connCaps: noConnCaps() })
  await client.closed
  await expect(client.read(1)).rejects.toThrow("after 0 of 1 bytes")
})

describe.each(withoutCaps)("a client newer than %s", (name) => {
  const spec = findOffer(name)!

  test("is told the version in its own form of HELLO, and may go on with it", async () => {
    const client = await TestClient.open(portOf(name))
    const answer = await client.ask(Command.HELLO, { connCaps: noConnCaps() })
    expect(answer).toMatchObject({ ...spec.version, connCaps: noConnCaps() })
    expect(answer.extension & HelloExtension.LEVEL_MASK).toBe(HelloExtension.LEVEL)
    client.spec = spec
    const buffer = await client.allocate(64)
    await client.tell(Command.FREE_BUFFER, { remotePtr: buffer.remotePtr })
    client.close()
  })

  test("that hangs up is named in one line, which is no error", async () => {
    log.length = 0
    const client = await TestClient.open(portOf(name))
    await client.ask(Command.HELLO, { connCaps: noConnCaps() })
    client.close()
    const text = `hung up when it was told protocol ${formatVersion(spec.version)}`
    const lines = () => log.filter(({ level }) => level === "warning" || level === "error")
    for (let tries = 0; tries < 500 && lines().length === 0; tries++) await Bun.sleep(5)
    const [line, ...others] = lines()
    expect(line).toMatchObject({ level: "warning", message: expect.stringContaining(text) })
    expect(others).toEqual([])
  })
})
