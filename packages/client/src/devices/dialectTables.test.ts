import { read, toArrayBuffer } from "bun:ffi"
import { afterAll, describe, expect, test } from "bun:test"
import { type Address, asPointer, cString, ggml } from "@ggml-rpc/native/bindings"
import {
  ABSENT_TENSOR,
  Dialect,
  findVersion,
  libraryNumbering,
  newest,
  opId,
  type ProtocolSpec,
  RpcTensor,
  typeId,
} from "@ggml-rpc/protocol"
import { type DeviceOperations, makeCallbacks } from "./DeviceOperations.ts"
import { setDialect } from "./dialectTables.ts"
import { type Node, withGraph } from "./graph.testHelper.ts"

const devices: Array<Address> = []
afterAll(() => {
  for (const device of devices) ggml().gs_remote_device_free(asPointer(device))
})

const deviceOf = (dialect: Dialect): Address => {
  const device = ggml().gs_remote_device_new(
    ...([devices.length, 0, cString("RPC0"), cString("a server"), 64, -1, 0, 0] as const),
  ) as Address
  devices.push(device)
  setDialect(device, dialect)
  return device
}

const supports = (dialect: Dialect, node: Node): boolean => {
  const backend = ggml().ggml_backend_dev_init(asPointer(deviceOf(dialect)), null)
  try {
    return withGraph([node], (built) => ggml().gs_graph_unsupported(backend, asPointer(built))) < 0
  } finally {
    ggml().ggml_backend_free(backend)
  }
}

const versionOf = (name: string): ProtocolSpec => {
  const spec = findVersion(name)
  if (spec === undefined) throw new Error(`there is no version ${name}`)
  return spec
}

const dialectOf = (name: string, operationCount?: number): Dialect => {
  const spec = versionOf(name)
  const numbering = spec.numberings.find(({ ops }) => ops.length === operationCount)
  return new Dialect(spec, numbering)
}

test("the size of quantized rows is asked for where they may be padded, as the version says", () => {
  const asked: Array<number> = []
  const callbacks = makeCallbacks({
    getAllocSize: (device: number) => asked.push(device),
  } as unknown as DeviceOperations)
  ggml().gs_remote_set_callbacks(
    BigUint64Array.from(callbacks, ({ ptr }) => BigInt(ptr as Address)),
  )
  const bytes = new Uint8Array(RpcTensor.size)
  const none = new Uint8Array(10 * RpcTensor.size)
  const isAsked = (multiple: number, ne0: number): boolean => {
    const dialect = new Dialect(newest)
    const device = deviceOf({
      ...dialect,
      features: { ...dialect.features, quantizedRowMultiple: multiple },
    } as Dialect)
    const nb1 = (ne0 / 32) * 34
    const tensor = { ...ABSENT_TENSOR, type: typeId("Q8_0"), ne: [ne0, 1, 1, 1] }
    RpcTensor.encode({ ...tensor, nb: [34, nb1, nb1, nb1] }, new DataView(bytes.buffer), 0)
    asked.length = 0
    const type = ggml().ggml_backend_dev_buffer_type(asPointer(device))
    ggml().gs_tensor_alloc_size(type, bytes, none)
    return asked.length > 0
  }
  expect([256, 512, 1024].map((ne0) => isAsked(512, ne0))).toEqual([true, false, false])
  expect([256, 512, 1024].map((ne0) => isAsked(1024, ne0))).toEqual([true, true, false])
  for (const callback of callbacks) callback.close()
})

describe("a server is asked to compute", () => {
  test("all that has a number in its version, and nothing that has none", () => {
    expect(supports(dialectOf("3.0.0", 94), { op: "CUMSUM" })).toBe(true)
    expect(supports(dialectOf("3.0.0", 94), { op: "TOP_K" })).toBe(false)
    expect(supports(dialectOf("3.0.0", 95), { op: "TOP_K" })).toBe(true)
    expect(supports(dialectOf("2.0.0", 90), { op: "CUMSUM" })).toBe(false)
    expect(supports(dialectOf("2.0.0", 90), { op: "MUL_MAT" })).toBe(true)
  })

  test("of a build that is not known, what all builds number alike", () => {
    expect(supports(dialectOf("3.0.0"), { op: "ADD" })).toBe(true)
    expect(supports(dialectOf("3.0.0"), { op: "MUL_MAT" })).toBe(false)
  })

  test("views, whatever their number: they compute nothing", () => {
    for (const op of ["NONE", "VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"]) {
      expect(supports(dialectOf("3.0.0"), { op })).toBe(true)
    }
  })

  test("no kind of an operation that it lacks", () => {
    const expm1 = { op: "UNARY", opParams: [libraryNumbering.unaryOps.indexOf("EXPM1")] }
    expect(supports(dialectOf("2.0.0", 90), expm1)).toBe(false)
    expect(supports(dialectOf("3.0.0", 94), expm1)).toBe(true)
    const clamped = { op: "GLU", opParams: [libraryNumbering.gluOps.indexOf("SWIGLU_CLAMP")] }
    expect(supports(dialectOf("5.1.0"), clamped)).toBe(false)
    expect(supports(dialectOf("6.0.0"), clamped)).toBe(true)
    expect(supports(dialectOf("6.0.0"), { op: "UNARY", opParams: [-1] })).toBe(false)
  })

  test("no parameter that it would not look at", () => {
    const interleaved = { op: "ROPE", opParams: [0, 64, 40] }
    expect(supports(dialectOf("3.0.0", 95), interleaved)).toBe(false)
    expect(supports(dialectOf("3.5.0"), interleaved)).toBe(true)
    expect(supports(dialectOf("3.0.0", 95), { op: "ROPE", opParams: [0, 64, 2] })).toBe(true)
  })

  test("no type that it does not know, of a result or of a source", () => {
    const old = dialectOf("3.6.0", 95)
    expect(supports(old, { op: "MUL_MAT", sources: ["NVFP4"] })).toBe(false)
    expect(supports(old, { op: "MUL_MAT", sources: ["Q4_K"] })).toBe(true)
    expect(supports(old, { op: "CPY", type: "Q2_0", sources: ["F32"] })).toBe(false)
    expect(supports(dialectOf("7.0.0"), { op: "MUL_MAT", sources: ["NVFP4"] })).toBe(true)
  })

  test("no operation without a source that it needs, or with one that it would misread", () => {
    const scatter = { op: "SET_ROWS", sources: ["F32", "I32", "F32"] }
    expect(supports(dialectOf("3.0.0", 95), scatter)).toBe(false)
    expect(supports(dialectOf("3.6.0", 95), scatter)).toBe(true)
    expect(supports(dialectOf("3.0.0", 95), { ...scatter, sources: ["F32", "I64", "F32"] })).toBe(
      true,
    )
    const mixed = { op: "DSV4_HC_POST", sources: ["F32", "F32", "F32"] }
    expect(supports(dialectOf("6.0.0"), mixed)).toBe(false)
    expect(supports(dialectOf("6.0.0"), { ...mixed, sources: ["F32", "F32", "F32", "F32"] })).toBe(
      true,
    )
    expect(supports(dialectOf("7.0.0"), mixed)).toBe(true)
  })

  test.each(["MAP_CUSTOM1", "MAP_CUSTOM2", "MAP_CUSTOM3", "CUSTOM"])(
    "never %s, which carries addresses of this process",
    (op) => {
      expect(supports(dialectOf("8.0.0"), { op })).toBe(false)
      expect(supports(dialectOf("3.0.0", 95), { op })).toBe(false)
    },
  )
})

describe("a graph for a server", () => {
  /** The built graph's second field. */
  const GRAPH_OFFSET = 8

  /** Records as they are sent, and the operation that has no number there, if any. */
  const flatten = (dialect: Dialect, nodes: ReadonlyArray<Node>) =>
    withGraph(nodes, (built) => {
      const graph = asPointer(read.ptr(asPointer(built), GRAPH_OFFSET) as Address)
      const counts = new Uint32Array(2)
      const missing = ggml().gs_graph_flatten(graph, asPointer(deviceOf(dialect)), counts)
      const records = asPointer(ggml().gs_flat_records() as Address)
      const found = new DataView(toArrayBuffer(records, 0, counts[1]! * RpcTensor.size))
      const flat = Array.from({ length: counts[1]! }, (_, index) =>
        RpcTensor.decode(found, index * RpcTensor.size),
      )
      return { missing, flat: flat.filter(({ src }) => src[0] !== 0n) }
    })

  const silu = [libraryNumbering.unaryOps.indexOf("SILU")]
  const gelu = [libraryNumbering.unaryOps.indexOf("GELU_ERF")]

  test("names operations and kinds by the server's numbers", () => {
    const nodes = [
      { op: "RMS_NORM" },
      { op: "UNARY", opParams: silu },
      { op: "UNARY", opParams: gelu },
      { op: "VIEW" },
    ]
    const old = dialectOf("3.0.0", 90)
    const { missing, flat } = flatten(old, nodes)
    expect(missing).toBe(-1)
    expect(flat.map(({ op }) => old.numbering.ops[op])).toEqual([
      ...["RMS_NORM", "UNARY", "UNARY", "VIEW"],
    ])
    expect(flat.map(({ opParams }) => opParams[0])).toEqual([0, 10, 14, 0])
    expect(flatten(dialectOf("7.0.0"), nodes).flat.map(({ op }) => op)).toEqual(
      ["RMS_NORM", "UNARY", "UNARY", "VIEW"].map((name) => opId(name)),
    )
  })

  test("has no use counts where nobody reads them", () => {
    const nodes = [{ op: "SQR" }]
    expect(flatten(dialectOf("5.0.0"), nodes).flat.map(({ useCount }) => useCount)).toEqual([0])
    expect(flatten(dialectOf("5.1.0"), nodes).flat.map(({ useCount }) => useCount)).toEqual([1])
  })

  test("is not sent with an operation that the server has no number for", () => {
    expect(flatten(dialectOf("3.0.0", 94), [{ op: "SQR" }, { op: "TOP_K" }]).missing).toBe(
      opId("TOP_K"),
    )
  })

  test("has views that compute nothing where the server's number for them is not known", () => {
    const { missing, flat } = flatten(dialectOf("3.0.0"), [{ op: "VIEW" }, { op: "ADD" }])
    expect(missing).toBe(-1)
    expect(flat.map(({ op }) => op)).toEqual([opId("NONE"), opId("ADD")])
  })
})
