/** What the shim asks of a server, when, and what it makes of the answers; the test is the server. */
import { FFIType, JSCallback, type Pointer, toArrayBuffer } from "bun:ffi"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test"
import { type Address, asPointer, cString, ggml } from "@ggml-rpc/native/bindings"
import { Dialect, newest, opName, RpcTensor, typeName } from "@ggml-rpc/protocol"
import { setDialect } from "./dialectTables.ts"
import { type Node, withGraph } from "./graph.testHelper.ts"
import { MeasurePhase } from "./support.ts"

/** What the server supports; undefined: it is gone. */
let server: ((node: RpcTensor) => boolean) | undefined
/** All questions, in the order they came. */
let asked: Array<RpcTensor>
let requestCount: number
let device: Address

const answerAll = (): number => {
  const found = new Float64Array(4)
  ggml().gs_remote_support_questions(asPointer(device), found)
  const [nodeCount, ids, recordCount, records] = [...found] as [number, number, number, number]
  if (nodeCount === 0) return 0
  requestCount++
  const view = (at: number, size: number): DataView =>
    new DataView(toArrayBuffer(at as Pointer, 0, size))
  const tensors = view(records, recordCount * RpcTensor.size)
  const nodes = Array.from({ length: nodeCount }, (_, index) => {
    const id = Number(view(ids, nodeCount * 8).getBigUint64(index * 8, true))
    return RpcTensor.decode(tensors, (id - 1) * RpcTensor.size)
  })
  asked.push(...nodes)
  const known = server
  const answers =
    known === undefined ? null : Uint8Array.from(nodes, (node) => (known(node) ? 1 : 0))
  return ggml().gs_remote_support_answer(asPointer(device), answers)
}

const callback = new JSCallback(() => void answerAll(), { args: ["i32"], returns: FFIType.void })

beforeAll(() => {
  const callbacks = new BigUint64Array(13)
  callbacks[12] = BigInt(callback.ptr as Address)
  ggml().gs_remote_set_callbacks(callbacks)
})
afterAll(() => callback.close())

beforeEach(() => {
  server = () => true
  asked = []
  requestCount = 0
  device = ggml().gs_remote_device_new(
    ...([0, 0, cString("RPC0"), cString("a server"), 64, -1, 0, 0] as const),
  ) as Address
  setDialect(device, new Dialect(newest))
  ggml().gs_remote_support_enable(asPointer(device), 1)
})
afterEach(() => ggml().gs_remote_device_free(asPointer(device)))

/** Whether the device supports each of the nodes, as ggml's scheduler asks. */
const supports = (...nodes: ReadonlyArray<Node>): ReadonlyArray<boolean> =>
  withGraph(nodes, (built) => {
    const answers = new Uint8Array(nodes.length).fill(1)
    ggml().gs_graph_supports(asPointer(device), asPointer(built), answers)
    return [...answers].map((answer) => answer === 1)
  })

const names = (): ReadonlyArray<string> => asked.map(({ op }) => opName(op)!)

const norm: Node = { op: "RMS_NORM" }
const sum: Node = { op: "ADD", sources: ["F32", "F32"] }

describe("a node is asked about", () => {
  test("once, however often it comes", () => {
    server = ({ op }) => opName(op) === "ADD"
    for (let round = 0; round < 3; round++) {
      expect(supports(norm, sum, norm)).toEqual([false, true, false])
    }
    expect(names()).toEqual(["RMS_NORM", "ADD"])
  })

  test("with its types, shape and parameters, and with what it reads", () => {
    const node: Node = { op: "MUL_MAT", ne: [64, 3, 1, 1], sources: ["Q4_K", "F32"], opParams: [7] }
    const records: Array<RpcTensor> = []
    server = () => true
    ggml().gs_remote_support_measure(asPointer(device), MeasurePhase.GATHERING)
    supports(node)
    const found = new Float64Array(4)
    ggml().gs_remote_support_questions(asPointer(device), found)
    const view = new DataView(toArrayBuffer(found[3] as Pointer, 0, found[2]! * RpcTensor.size))
    for (let at = 0; at < view.byteLength; at += RpcTensor.size) {
      records.push(RpcTensor.decode(view, at))
    }
    const [weights, input, product] = records
    expect([weights, input].map((record) => typeName(record!.type))).toEqual(["Q4_K", "F32"])
    expect(product).toMatchObject({ id: 3n, ne: [64, 3, 1, 1], buffer: 0n, viewSrc: 0n })
    expect(product!.src.slice(0, 3)).toEqual([1n, 2n, 0n])
    expect(product!.opParams[0]).toBe(7)
  })

  test("not at all where it computes nothing, or where the version lacks it", () => {
    server = () => false
    expect(supports({ op: "VIEW" }, { op: "RESHAPE" }, { op: "MAP_CUSTOM1" })).toEqual([
      ...[true, true, false],
    ])
    expect(asked).toEqual([])
  })

  test("not at all where libllama made it up, to see whether a weight may lie there", () => {
    server = () => false
    const turned: Node = { op: "ROPE", ne: [16, 2, 8, 1], sources: ["F32", "I32", "F32"] }
    expect(supports({ ...turned, opParams: [0, 0] }, { ...turned, opParams: [0, 16] })).toEqual([
      ...[true, false],
    ])
    expect(asked.map(({ opParams }) => opParams[1])).toEqual([16])
  })

  test("not at all of a server that cannot be asked", () => {
    server = () => false
    ggml().gs_remote_support_enable(asPointer(device), 0)
    expect(supports(norm, sum)).toEqual([true, true])
    expect(asked).toEqual([])
  })
})

describe("nodes that differ", () => {
  test("by the length of a batch alone have one answer", () => {
    server = ({ op }) => opName(op) !== "RMS_NORM"
    const lengths = [512, 37, 8, 300, 2]
    for (const length of lengths) {
      const ne = [64, length, 1, 1] as const
      expect(supports({ ...norm, ne }, { ...sum, ne })).toEqual([false, true])
    }
    expect(asked.map(({ ne }) => ne[1])).toEqual([512, 512])
  })

  test("by rows, types or parameters are asked about each", () => {
    supports({ ...norm, ne: [64, 5, 1, 1] })
    supports({ ...norm, ne: [80, 5, 1, 1] })
    supports({ ...norm, ne: [64, 5, 1, 1], sources: ["F16"] })
    supports({ ...norm, ne: [64, 5, 1, 1], opParams: [1] })
    expect(asked).toHaveLength(4)
  })

  test("are asked about each once there were two answers", () => {
    server = ({ ne }) => ne[1]! <= 100
    const at = (length: number): boolean => supports({ ...norm, ne: [64, length, 1, 1] })[0]!
    ggml().gs_remote_support_measure(asPointer(device), MeasurePhase.GATHERING)
    at(512)
    at(100)
    expect(answerAll()).toBe(1)
    ggml().gs_remote_support_measure(asPointer(device), MeasurePhase.OVER)
    expect([512, 100, 99, 101].map(at)).toEqual([false, true, true, false])
    expect(asked.map(({ ne }) => ne[1])).toEqual([512, 100, 99, 101])
  })
})

describe("while a model is measured", () => {
  const phase = (value: MeasurePhase): void =>
    ggml().gs_remote_support_measure(asPointer(device), value)

  test("questions gather for one request, and what nobody knows counts as supported", () => {
    server = ({ op }) => opName(op) === "ADD"
    phase(MeasurePhase.GATHERING)
    expect(supports(norm, sum, norm)).toEqual([true, true, true])
    expect(requestCount).toBe(0)
    expect(answerAll()).toBe(1)
    expect(requestCount).toBe(1)
    phase(MeasurePhase.ASKING)
    expect(supports(norm, sum)).toEqual([false, true])
    expect(requestCount).toBe(1)
    expect(supports({ op: "SQR" })).toEqual([false])
    expect(requestCount).toBe(2)
  })

  test("a request does not grow without bound", () => {
    phase(MeasurePhase.GATHERING)
    for (let length = 1; length < 3000; length++) supports({ ...norm, ne: [64, length, 1, 1] })
    expect(requestCount).toBeGreaterThan(0)
    answerAll()
    expect(asked).toHaveLength(2999)
  })

  test("what was not answered is asked again", () => {
    phase(MeasurePhase.GATHERING)
    supports(norm)
    phase(MeasurePhase.OVER)
    expect(requestCount).toBe(0)
    server = undefined
    expect(supports(norm)).toEqual([true])
    server = () => false
    expect(supports(norm)).toEqual([false])
    expect(names()).toEqual(["RMS_NORM", "RMS_NORM"])
  })

  test("it is counted how often the device said no", () => {
    const refusals = (): number => {
      const found = new Int32Array(2)
      ggml().gs_remote_support_measured(asPointer(device), found)
      expect(found[1]).toBe(-1)
      return found[0]!
    }
    server = () => false
    supports(norm)
    phase(MeasurePhase.ASKING)
    expect(refusals()).toBe(0)
    supports(norm, sum, { op: "VIEW" }, { op: "CUSTOM" })
    expect(refusals()).toBe(3)
  })
})
