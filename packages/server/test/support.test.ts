/** DEVICE_SUPPORTS: what a device has kernels for, asked without a buffer and without a graph that runs. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import {
  ABSENT_TENSOR,
  Command,
  encodeExtensionRequest,
  extensionCommands,
  findOffer,
  type Numbering,
  newest,
  noConnCaps,
  type RpcTensor,
  typeId,
} from "@ggml-rpc/protocol"
import { sources, TestClient } from "./TestClient.ts"
import { startServer } from "./withServer.ts"

let server: Awaited<ReturnType<typeof startServer>>
/** Ports for one version. */
const pinned = ["2.0", "3.6.1", "4.0", "7.0"] as const

beforeAll(async () => {
  server = await startServer({ listen: pinned.map((protocol) => ({ port: 0, protocol })) })
})
afterAll(() => server.stop())

const portOf = (name: (typeof pinned)[number]): number => {
  const { endpoint } = server.pinned.find(({ protocol }) => protocol === name)!
  return Number(endpoint.split(":").at(-1))
}

const newestNumbering: Numbering = newest.numberings.at(-1)!

interface Node {
  readonly op: string
  readonly type?: string
  readonly ne: readonly number[]
  readonly of: readonly { readonly type?: string; readonly ne: readonly number[] }[]
}

const typeSizes: Readonly<Record<string, number>> = { F32: 4, F16: 2, I32: 4 }

/** A tensor without a buffer; of a quantized type, one block a row is enough here. */
const tensorOf = (id: number, ne: readonly number[], type = "F32"): RpcTensor => {
  const shape = [0, 1, 2, 3].map((dim) => ne[dim] ?? 1)
  const rowBytes = type in typeSizes ? typeSizes[type]! * shape[0]! : 66
  const nb = [typeSizes[type] ?? 66, rowBytes, rowBytes * shape[1]!]
  return {
    ...ABSENT_TENSOR,
    id: BigInt(id),
    type: typeId(type),
    ne: shape,
    nb: [...nb, nb[2]! * shape[2]!],
  }
}

/** The question for these nodes, in the numbers of a client. */
const questionOf = (nodes: readonly Node[], numbering = newestNumbering, device = 0) => {
  const tensors: RpcTensor[] = []
  const ids = nodes.map(({ op, type, ne, of }) => {
    const read = of.map((source) => {
      tensors.push(tensorOf(tensors.length + 1, source.ne, source.type))
      return tensors.length
    })
    const id = tensors.length + 1
    tensors.push({
      ...tensorOf(id, ne, type),
      op: numbering.ops.indexOf(op),
      src: sources(...read),
    })
    return BigInt(id)
  })
  return encodeExtensionRequest("DEVICE_SUPPORTS", { device, nodes: ids, tensors })
}

const answer = async (client: TestClient): Promise<readonly number[]> => {
  const header = await client.read(8)
  const size = new DataView(header.buffer, header.byteOffset).getUint32(0, true)
  return [...(await client.read(size))]
}

const product: Node = { op: "MUL_MAT", ne: [4, 2], of: [{ ne: [8, 4] }, { ne: [8, 2] }] }
const norm: Node = { op: "RMS_NORM", ne: [8], of: [{ ne: [8] }] }
const sum: Node = { op: "ADD", ne: [8], of: [{ ne: [8] }, { ne: [8] }] }
/** No kernel writes this type. */
const unwritable: Node = { op: "CPY", type: "IQ2_XXS", ne: [256], of: [{ ne: [256] }] }
/** The result has to be ne[4,2]. */
const misshapen: Node = { ...product, ne: [4, 3] }
const withoutSources: Node = { op: "MUL_MAT", ne: [4, 2], of: [{ ne: [8, 4] }] }

describe("a client of this project is told", () => {
  test("for each node whether there is a kernel, and no for what no graph may have", async () => {
    const client = await TestClient.connect(server.port)
    const nodes = [product, unwritable, sum, misshapen, withoutSources]
    client.write(questionOf(nodes))
    expect(await answer(client)).toEqual([1, 0, 1, 0, 0])
    client.write(questionOf([]))
    expect(await answer(client)).toEqual([])
    expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
    client.close()
  })

  const builds = pinned.flatMap((name) =>
    findOffer(name)!.numberings.map((numbering) => [name, numbering.name, numbering] as const),
  )
  test.each(builds)("on a port for %s alone, in the numbers of %s", async (name, _, numbering) => {
    const client = await TestClient.connect(portOf(name))
    client.write(questionOf([sum, product, unwritable, norm], numbering))
    expect(await answer(client)).toEqual([1, 1, 0, 1])
    client.close()
  })

  test("by a process that serves the next client as well", async () => {
    const before = server.processIds()
    for (let round = 0; round < 3; round++) {
      const client = await TestClient.connect(server.port)
      client.write(questionOf([sum]))
      expect(await answer(client)).toEqual([1])
      client.close()
      await client.closed
    }
    for (const id of before) expect(server.processIds()).toContain(id)
  })
})

describe("refused is", () => {
  const cycle = (): Uint8Array => {
    const first = { ...tensorOf(1, [4]), op: 2, src: sources(2, 2) }
    const second = { ...tensorOf(2, [4]), op: 2, src: sources(1, 1) }
    const question = { device: 0, nodes: [1n], tensors: [first, second] }
    return encodeExtensionRequest("DEVICE_SUPPORTS", question)
  }
  const repeated = (): Uint8Array =>
    encodeExtensionRequest("DEVICE_SUPPORTS", {
      device: 0,
      nodes: [1n, 1n],
      tensors: [tensorOf(1, [4])],
    })
  const tooLarge = (): Uint8Array => {
    const { maxRequestBytes } = extensionCommands.DEVICE_SUPPORTS
    const tensors = Array.from({ length: Math.ceil(maxRequestBytes / 296) }, (_, index) =>
      tensorOf(index + 1, [4]),
    )
    return encodeExtensionRequest("DEVICE_SUPPORTS", { device: 0, nodes: [], tensors })
  }
  test.each([
    [
      "a device that does not exist",
      questionOf([sum], newestNumbering, 1),
      "below the device count 1",
    ],
    ["a cycle", cycle(), "closes a cycle"],
    ["a node for no tensor", repeated(), "n_nodes must be at most the tensor count 1"],
    ["too much at once", tooLarge(), "payload_size exceeds the limit of 1048576 bytes"],
    [
      "a tensor that cannot be",
      questionOf([{ ...unwritable, ne: [255] }]),
      "must be a multiple of the type's block size",
    ],
  ])("%s", async (_, question, reason) => {
    const client = await TestClient.connect(server.port)
    client.write(question)
    await client.closed
    await server.logged("DEVICE_SUPPORTS", reason)
  })

  test("every extension command of a client that was announced none", async () => {
    const old = findOffer("3.6.1")!
    const client = await TestClient.open(portOf("3.6.1"), { spec: old })
    await client.ask(Command.HELLO, { connCaps: noConnCaps() })
    client.write(questionOf([sum]))
    await client.closed
    await server.logged("command is unknown (got 128)")
  })
})
