import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import { requests, tensor } from "../../fixtures/arbitraries.ts"
import {
  Command,
  decodeRequest,
  encodeRequest,
  GRAPH_MIN_SIZE_BYTES,
  graphSizeBytes,
  ProtocolError,
  parseGraphHeader,
  RpcTensor,
  writeGraphCounts,
} from "../index.ts"

const payload = (sizeBytes: number, nodeCount: number, tensorCount: number): DataView => {
  const view = new DataView(new ArrayBuffer(sizeBytes))
  view.setUint32(4, nodeCount, true)
  const at = 8 + nodeCount * 8
  if (at + 4 <= sizeBytes) view.setUint32(at, tensorCount, true)
  return view
}

describe("parseGraphHeader", () => {
  test("agrees with the encoder", () => {
    fc.assert(
      fc.property(requests.GRAPH_COMPUTE, fc.nat(7), (value, trailing) => {
        const frame = encodeRequest(Command.GRAPH_COMPUTE, value)
        const bytes = new Uint8Array(frame.length + trailing)
        bytes.set(frame)
        const layout = parseGraphHeader(new DataView(bytes.buffer), bytes.length - 9, 9)
        expect(layout).toEqual({
          device: value.device,
          nodeCount: value.nodes.length,
          nodeIdsOffset: 8,
          tensorCount: value.tensors.length,
          tensorsOffset: 12 + 8 * value.nodes.length,
          trailingBytes: trailing,
        })
      }),
    )
  })

  test("an empty graph is 12 bytes", () => {
    expect(graphSizeBytes(0, 0)).toBe(GRAPH_MIN_SIZE_BYTES)
    expect(parseGraphHeader(payload(12, 0, 0), 12).trailingBytes).toBe(0)
  })

  const refused: readonly [string, DataView, string][] = [
    ["11 bytes", payload(11, 0, 0), "payload_size"],
    ["a node count without room for the tensor count", payload(19, 1, 0), "n_nodes"],
    ["the largest node count", payload(64, 0xffff_ffff, 0), "n_nodes"],
    ["one tensor short by a byte", payload(12 + 295, 0, 1), "n_tensors"],
    ["the largest tensor count", payload(12 + 296, 0, 0xffff_ffff), "n_tensors"],
    ["both counts at their largest", payload(12, 0xffff_ffff, 0xffff_ffff), "n_nodes"],
  ]
  for (const [what, view, field] of refused) {
    test(`refuses ${what}`, () => {
      try {
        parseGraphHeader(view, view.byteLength)
        throw new Error("was accepted")
      } catch (error) {
        expect(error).toBeInstanceOf(ProtocolError)
        expect((error as ProtocolError).command).toBe("GRAPH_COMPUTE")
        expect((error as ProtocolError).field).toBe(field)
      }
    })
  }

  test("refuses a payload size beyond the view", () => {
    expect(() => parseGraphHeader(payload(12, 0, 0), 13)).toThrow(ProtocolError)
    expect(() => parseGraphHeader(payload(12, 0, 0), 12, 1)).toThrow(ProtocolError)
  })

  test("any counts in any payload give a layout inside it or a ProtocolError", () => {
    const count = fc.oneof(fc.nat(4), fc.nat(0xffff_ffff))
    fc.assert(
      fc.property(fc.nat(700), count, count, (sizeBytes, nodeCount, tensorCount) => {
        const view = new DataView(new ArrayBuffer(sizeBytes))
        if (sizeBytes >= 8) view.setUint32(4, nodeCount, true)
        const at = 8 + nodeCount * 8
        if (at + 4 <= sizeBytes) view.setUint32(at, tensorCount, true)
        try {
          const layout = parseGraphHeader(view, sizeBytes)
          const end = layout.tensorsOffset + layout.tensorCount * 296 + layout.trailingBytes
          expect(end).toBe(sizeBytes)
          expect(layout.trailingBytes).toBeGreaterThanOrEqual(0)
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolError)
        }
      }),
      { numRuns: 2000 },
    )
  })
})

test("a graph written by hand equals the encoder's", () => {
  fc.assert(
    fc.property(
      fc.array(fc.maxSafeNat(), { maxLength: 5 }),
      fc.array(tensor, { maxLength: 4 }),
      (ids, tensors) => {
        const nodes = ids.map(BigInt)
        const view = new DataView(new ArrayBuffer(graphSizeBytes(nodes.length, tensors.length)))
        const tensorsAt = writeGraphCounts(view, 0, 3, nodes.length, tensors.length)
        nodes.forEach((id, index) => {
          view.setBigUint64(8 + index * 8, id, true)
        })
        tensors.forEach((value, index) => {
          RpcTensor.encode(value, view, tensorsAt + index * RpcTensor.size)
        })
        const frame = encodeRequest(Command.GRAPH_COMPUTE, { device: 3, nodes, tensors })
        expect(new Uint8Array(view.buffer)).toEqual(frame.subarray(9))
      },
    ),
    { numRuns: 50 },
  )
})

test("trailing bytes are ignored when decoding, as upstream's server does", () => {
  const graph = { device: 1, nodes: [5n], tensors: [] }
  const frame = encodeRequest(Command.GRAPH_COMPUTE, graph)
  const longer = Uint8Array.of(...frame.subarray(9), 1, 2, 3)
  expect(decodeRequest(Command.GRAPH_COMPUTE, longer)).toEqual(graph)
})

test("the encoder refuses what does not fit", () => {
  const encode = (value: object) => () =>
    encodeRequest(Command.GRAPH_COMPUTE, { device: 0, nodes: [], tensors: [], ...value })
  expect(encode({ device: -1 })).toThrow(ProtocolError)
  expect(encode({ nodes: [-1n] })).toThrow(ProtocolError)
})
