import { expect, test } from "bun:test"
import fc from "fast-check"
import { requests } from "../fixtures/arbitraries.ts"
import {
  Command,
  describeCommand,
  ExtensionCommand,
  encodeExtensionRequest,
  encodeLinkKey,
  encodeLinkKeyAnswer,
  extensionCommands,
  extensionName,
  HelloExtension,
  LINK_KEY_BYTES,
  LinkStatus,
  PeerFault,
  ProtocolError,
  RpcTensor,
  readLostPeer,
  versions,
  writeLostPeer,
} from "./index.ts"

const { request } = extensionCommands.DEVICE_SUPPORTS

test("the ids of our commands lie where upstream's do not reach, and have their names", () => {
  const upstream = Math.max(...Object.values(Command))
  for (const [name, id] of Object.entries(ExtensionCommand)) {
    expect(id).toBeGreaterThanOrEqual(128)
    expect(id).toBeGreaterThan(upstream)
    expect(id).toBeLessThan(256)
    expect<string | undefined>(extensionName(id)).toBe(name)
    expect(describeCommand(id)).toBe(name)
  }
  expect(extensionName(127)).toBeUndefined()
  for (const { commands } of versions) {
    for (const name of Object.keys(ExtensionCommand)) expect(commands).not.toHaveProperty(name)
  }
})

test("what this package announces includes each of them, within the bits of a level", () => {
  const { LEVEL, LEVEL_MASK, ...flags } = HelloExtension
  expect(LEVEL & LEVEL_MASK).toBe(LEVEL)
  const bits: number[] = [LEVEL_MASK, ...Object.values(flags)]
  // None twice, and all within a byte.
  expect(bits.reduce((sum, bit) => sum + bit)).toBe(0xff)
  expect(bits.reduce((all, bit) => all | bit)).toBe(0xff)
  for (const { level } of Object.values(extensionCommands)) {
    expect(level).toBeGreaterThan(0)
    expect(level).toBeLessThanOrEqual(LEVEL)
  }
})

test("DEVICE_SUPPORTS names a device and has the nodes of a graph", () => {
  fc.assert(
    fc.property(requests.GRAPH_COMPUTE, ({ device, nodes, tensors }) => {
      const frame = encodeExtensionRequest("DEVICE_SUPPORTS", { device, nodes, tensors })
      expect(frame[0]).toBe(128)
      const view = new DataView(frame.buffer)
      expect(view.getBigUint64(1, true)).toBe(BigInt(frame.length - 9))
      expect(view.getUint32(9, true)).toBe(device)
      expect(view.getUint32(13, true)).toBe(nodes.length)
      expect(frame.length - 9).toBe(request.sizeBytes(nodes.length, tensors.length))
      expect(request.decode(view, 9, frame.length - 9)).toEqual({ device, uid: 0n, nodes, tensors })
    }),
    { numRuns: 30 },
  )
})

test("what is wrong with it is said in its name", () => {
  const view = new DataView(new ArrayBuffer(12))
  view.setUint32(4, 1000, true)
  expect(() => request.parse(view, 12)).toThrow(ProtocolError)
  expect(() => request.parse(view, 12)).toThrow("DEVICE_SUPPORTS")
})

test("the requests for links and sums lie as documented", () => {
  fc.assert(
    fc.property(requests.COMM_ALLREDUCE, fc.nat(3), ({ tensor }, flags) => {
      const frame = encodeExtensionRequest("ALL_REDUCE", { flags, tensor })
      const view = new DataView(frame.buffer)
      expect(frame.length).toBe(9 + 4 + 296)
      expect(view.getUint32(9, true)).toBe(flags)
      expect(RpcTensor.decode(view, 13)).toEqual(tensor)
    }),
    { numRuns: 30 },
  )
  fc.assert(
    fc.property(requests.COMM_ALLREDUCE, fc.integer({ min: 1, max: 16 }), ({ tensor }, count) => {
      const places = Uint8Array.from({ length: 16 }, (_, part) => part % 3)
      const head = { flags: 2, serverCount: 3, partCount: 9, counting: 0x1ff, places }
      const tensors = Array.from({ length: count }, () => tensor)
      const frame = encodeExtensionRequest("ALL_REDUCE_DEVICES", { ...head, tensors })
      const view = new DataView(frame.buffer)
      expect(frame[0]).toBe(144)
      expect(frame.length).toBe(9 + 32 + count * 296)
      expect([9, 13, 17, 21].map((at) => view.getUint32(at, true))).toEqual([2, 3, 9, 0x1ff])
      expect(frame.slice(25, 41)).toEqual(places)
      expect(RpcTensor.decode(view, frame.length - 296)).toEqual(tensor)
      const { request } = extensionCommands.ALL_REDUCE_DEVICES
      expect(request.decode(view, 9, frame.length - 9)).toEqual({ ...head, tensors })
    }),
    { numRuns: 30 },
  )
  const key = Uint8Array.from({ length: LINK_KEY_BYTES }, (_, index) => index)
  const places = { rank: 1, worldSize: 3, peer: 2, key }
  const expected = encodeExtensionRequest("LINK_EXPECT", places)
  const dial = encodeExtensionRequest("LINK_DIAL", { ...places, port: 50052, host: "box" })
  expect(expected.subarray(9)).toEqual(dial.subarray(9, 9 + 28))
  expect(dial.slice(21, 37)).toEqual(key)
  expect(dial.length).toBe(9 + 28 + 4 + 256)
  expect(encodeLinkKey(key).slice(9)).toEqual(key)
  const word = new DataView(new ArrayBuffer(8))
  for (const place of [0, 15]) {
    for (const fault of Object.values(PeerFault)) {
      writeLostPeer(word, 0, { place, fault })
      expect(word.getBigUint64(0, true)).toBe(2n ** 64n - 256n + BigInt(16 * fault + place))
      expect(readLostPeer(word, 0)).toEqual({ place, fault })
    }
  }
  const noFaults = [0n, 6n, 15n].map((fault) => 2n ** 64n - 256n + 16n * fault)
  for (const size of [0n, 1n, 2n ** 32n - 1n, 2n ** 53n, ...noFaults]) {
    word.setBigUint64(0, size, true)
    expect(readLostPeer(word, 0)).toBeUndefined()
  }
  expect(encodeLinkKeyAnswer(LinkStatus.TLS)).toEqual(Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0, 2))
})

test("the requests for bf16 lie as documented", () => {
  fc.assert(
    fc.property(requests.GET_TENSOR, fc.uint8Array(), (range, data) => {
      const get = encodeExtensionRequest("GET_TENSOR_BF16", range)
      const getView = new DataView(get.buffer)
      expect(get[0]).toBe(141)
      expect(get.length).toBe(9 + 296 + 8 + 8)
      expect(RpcTensor.decode(getView, 9)).toEqual(range.tensor)
      expect(getView.getBigUint64(9 + 296, true)).toBe(range.offsetBytes)
      expect(getView.getBigUint64(9 + 304, true)).toBe(range.sizeBytes)
      const { tensor, offsetBytes } = range
      const set = encodeExtensionRequest("SET_TENSOR_BF16", { tensor, offsetBytes, data })
      const setView = new DataView(set.buffer)
      expect(set[0]).toBe(142)
      expect(setView.getBigUint64(1, true)).toBe(BigInt(296 + 8 + data.length))
      expect(set.subarray(9, 9 + 304)).toEqual(get.subarray(9, 9 + 304))
      expect(set.subarray(9 + 304)).toEqual(data)
    }),
    { numRuns: 30 },
  )
})

test("the request for the largest values lies as documented", () => {
  fc.assert(
    fc.property(requests.GET_TENSOR, fc.nat(), (range, count) => {
      const top = encodeExtensionRequest("GET_TENSOR_TOP", { ...range, count })
      const view = new DataView(top.buffer)
      expect(top[0]).toBe(143)
      expect(top.length).toBe(9 + 296 + 8 + 8 + 4)
      expect(RpcTensor.decode(view, 9)).toEqual(range.tensor)
      expect(view.getBigUint64(9 + 296, true)).toBe(range.offsetBytes)
      expect(view.getBigUint64(9 + 304, true)).toBe(range.sizeBytes)
      expect(view.getUint32(9 + 312, true)).toBe(count)
    }),
    { numRuns: 30 },
  )
})
