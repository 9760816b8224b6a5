import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import { requests, tensor } from "../../fixtures/arbitraries.ts"
import { GraphFormat, ProtocolError, RpcTensor } from "../index.ts"

const formats: readonly [string, GraphFormat, headBytes: number][] = [
  ["without a device", new GraphFormat({ hasDevice: false, hasUid: false }), 0],
  ["with a device", new GraphFormat({ hasDevice: true, hasUid: false }), 4],
  ["with a device and a uid", new GraphFormat({ hasDevice: true, hasUid: true }), 12],
]

/** A graph as a format carries it. */
const carried = ({ head }: GraphFormat) =>
  requests.GRAPH_COMPUTE.map((value) => ({
    ...value,
    device: head.hasDevice ? value.device : 0,
    uid: head.hasUid ? value.uid! : 0n,
  }))

const encoded = (format: GraphFormat, value: Parameters<GraphFormat["encode"]>[0]): DataView => {
  const view = new DataView(new ArrayBuffer(format.sizeOf(value)))
  format.encode(value, view, 0)
  return view
}

for (const [what, format, headBytes] of formats) {
  const emptyBytes = headBytes + 8

  const payload = (sizeBytes: number, nodeCount: number, tensorCount: number): DataView => {
    const view = new DataView(new ArrayBuffer(sizeBytes))
    if (headBytes + 4 <= sizeBytes) view.setUint32(headBytes, nodeCount, true)
    const at = headBytes + 4 + nodeCount * 8
    if (at + 4 <= sizeBytes) view.setUint32(at, tensorCount, true)
    return view
  }

  describe(`a graph ${what}`, () => {
    test("encode and decode are inverse", () => {
      fc.assert(
        fc.property(carried(format), fc.nat(7), (value, offset) => {
          const size = format.sizeOf(value)
          const view = new DataView(new ArrayBuffer(offset + size))
          format.encode(value, view, offset)
          expect(format.decode(view, offset, size)).toEqual(value)
        }),
      )
    })

    test("parse agrees with the encoder", () => {
      fc.assert(
        fc.property(carried(format), fc.nat(7), (value, trailing) => {
          const bytes = new Uint8Array(format.sizeOf(value) + trailing + 9)
          const view = new DataView(bytes.buffer)
          format.encode(value, view, 9)
          expect(format.parse(view, bytes.length - 9, 9)).toEqual({
            device: value.device,
            nodeCount: value.nodes.length,
            nodeIdsOffset: headBytes + 4,
            tensorCount: value.tensors.length,
            tensorsOffset: headBytes + 8 + 8 * value.nodes.length,
            trailingBytes: trailing,
          })
        }),
      )
    })

    test(`an empty one is ${emptyBytes} bytes`, () => {
      expect(format.sizeBytes(0, 0)).toBe(emptyBytes)
      expect(format.minSizeBytes).toBe(emptyBytes)
      expect(format.parse(payload(emptyBytes, 0, 0), emptyBytes).trailingBytes).toBe(0)
    })

    const refused: readonly [string, DataView, string][] = [
      ["one byte less than an empty one", payload(emptyBytes - 1, 0, 0), "payload_size"],
      ["a node count without room for the tensor count", payload(emptyBytes + 7, 1, 0), "n_nodes"],
      ["the largest node count", payload(64, 0xffff_ffff, 0), "n_nodes"],
      ["one tensor short by a byte", payload(emptyBytes + 295, 0, 1), "n_tensors"],
      ["the largest tensor count", payload(emptyBytes + 296, 0, 0xffff_ffff), "n_tensors"],
      ["both counts at their largest", payload(emptyBytes, 0xffff_ffff, 0xffff_ffff), "n_nodes"],
    ]
    for (const [wrong, view, field] of refused) {
      test(`refuses ${wrong}`, () => {
        try {
          format.parse(view, view.byteLength)
          throw new Error("was accepted")
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolError)
          expect((error as ProtocolError).command).toBe("GRAPH_COMPUTE")
          expect((error as ProtocolError).field).toBe(field)
        }
      })
    }

    test("refuses a payload size beyond the view", () => {
      const view = payload(emptyBytes, 0, 0)
      expect(() => format.parse(view, emptyBytes + 1)).toThrow(ProtocolError)
      expect(() => format.parse(view, emptyBytes, 1)).toThrow(ProtocolError)
    })

    test("any counts in any payload give a layout inside it or a ProtocolError", () => {
      const count = fc.oneof(fc.nat(4), fc.nat(0xffff_ffff))
      fc.assert(
        fc.property(fc.nat(700), count, count, (sizeBytes, nodeCount, tensorCount) => {
          try {
            const layout = format.parse(payload(sizeBytes, nodeCount, tensorCount), sizeBytes)
            const end = layout.tensorsOffset + layout.tensorCount * 296 + layout.trailingBytes
            expect(end).toBe(sizeBytes)
            expect(layout.trailingBytes).toBeGreaterThanOrEqual(0)
          } catch (error) {
            expect(error).toBeInstanceOf(ProtocolError)
          }
        }),
        { numRuns: 1000 },
      )
    })

    test("one written by hand equals the encoder's", () => {
      const ids = fc.array(fc.maxSafeNat(), { maxLength: 5 })
      const half = fc.nat(0xffff_ffff)
      fc.assert(
        fc.property(
          ids,
          fc.array(tensor, { maxLength: 4 }),
          half,
          half,
          (ids, tensors, low, high) => {
            const nodes = ids.map(BigInt)
            const device = format.head.hasDevice ? 3 : 0
            const view = new DataView(
              new ArrayBuffer(2 + format.sizeBytes(nodes.length, tensors.length)),
            )
            const idsAt = format.writeHead(view, 2, device, low, high, nodes.length)
            nodes.forEach((id, index) => {
              view.setBigUint64(idsAt + index * 8, id, true)
            })
            const countAt = idsAt + nodes.length * 8
            view.setUint32(countAt, tensors.length, true)
            tensors.forEach((value, index) => {
              RpcTensor.encode(value, view, countAt + 4 + index * RpcTensor.size)
            })
            const uid = (BigInt(high) << 32n) + BigInt(low)
            const whole = encoded(format, { device, uid, nodes, tensors })
            expect<unknown>(new Uint8Array(view.buffer, 2)).toEqual(new Uint8Array(whole.buffer))
          },
        ),
        { numRuns: 50 },
      )
    })

    test("trailing bytes are ignored when decoding, as upstream's server does", () => {
      const graph = { device: 0, uid: 0n, nodes: [5n], tensors: [] }
      const bytes = Uint8Array.of(...new Uint8Array(encoded(format, graph).buffer), 1, 2, 3)
      expect(format.decode(new DataView(bytes.buffer), 0, bytes.length)).toEqual(graph)
    })

    test("the encoder refuses what does not fit", () => {
      const encode = (value: object) => () =>
        encoded(format, { device: 0, nodes: [], tensors: [], ...value })
      expect(encode({ device: -1 })).toThrow(ProtocolError)
      expect(encode({ uid: -1n })).toThrow(ProtocolError)
      expect(encode({ nodes: [-1n] })).toThrow(ProtocolError)
      if (!format.head.hasDevice) expect(encode({ device: 1 })).toThrow("in this version")
    })
  })
}

test("a uid is optional, and 0 without one", () => {
  const [, , [, format]] = formats as [unknown, unknown, (typeof formats)[number]]
  const view = encoded(format, { device: 1, nodes: [], tensors: [] })
  expect(format.decode(view, 0, view.byteLength).uid).toBe(0n)
})
