import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import { tensor } from "../../fixtures/arbitraries.ts"
import {
  ABSENT_TENSOR,
  AllocBufferRequest,
  AllocBufferResponse,
  AllocOnlyBufferRequest,
  array,
  BufferClearRequest,
  BufferGetBaseResponse,
  BufferRequest,
  bytes,
  CommAllReduceRequest,
  CommInitRequest,
  CopyTensorRequest,
  cstring,
  DeviceCountResponse,
  DeviceRequest,
  GetAlignmentResponse,
  GetAllocSizeRequest,
  GetAllocSizeResponse,
  GetDeviceMemoryResponse,
  GetMaxSizeResponse,
  GetTensor2dRequest,
  GetTensorRequest,
  GraphRecomputeRequest,
  GraphStatusResponse,
  HelloRequest,
  HelloResponse,
  InitTensorRequest,
  i32,
  MemsetTensorRequest,
  ProtocolError,
  ResultResponse,
  RpcTensor,
  record,
  SetTensor2dPrefix,
  SetTensorHashRequest,
  SetTensorPrefix,
  SourcelessAllocSizeRequest,
  TensorAllocSizeRequest,
  UnflaggedSetTensorPrefix,
  u8,
  u32,
  u64,
  VersionResponse,
} from "../index.ts"

const room = (size: number) => new DataView(new ArrayBuffer(size))

test("every size is C's sizeof of the packed struct", () => {
  const sizes = [
    [RpcTensor, 296],
    [HelloRequest, 24],
    [HelloResponse, 28],
    [DeviceCountResponse, 4],
    [DeviceRequest, 4],
    [GetAlignmentResponse, 8],
    [GetMaxSizeResponse, 8],
    [GetDeviceMemoryResponse, 16],
    [AllocBufferRequest, 12],
    [AllocBufferResponse, 16],
    [BufferRequest, 8],
    [BufferGetBaseResponse, 8],
    [BufferClearRequest, 9],
    [SetTensorPrefix, 305],
    [SetTensorHashRequest, 312],
    [ResultResponse, 1],
    [GetTensorRequest, 312],
    [CopyTensorRequest, 592],
    [InitTensorRequest, 296],
    [GetAllocSizeRequest, 3260],
    [GetAllocSizeResponse, 8],
    [MemsetTensorRequest, 313],
    [GraphRecomputeRequest, 12],
    [SetTensor2dPrefix, 328],
    [GetTensor2dRequest, 328],
    [CommInitRequest, 80],
    [CommAllReduceRequest, 300],
    // Of older versions.
    [VersionResponse, 3],
    [AllocOnlyBufferRequest, 8],
    [TensorAllocSizeRequest, 296],
    [SourcelessAllocSizeRequest, 300],
    [UnflaggedSetTensorPrefix, 304],
    [GraphStatusResponse, 1],
  ] as const
  for (const [layout, size] of sizes)
    expect(`${layout.name} ${layout.size}`).toBe(`${layout.name} ${size}`)
})

test("the offsets of rpc_tensor are C's offsetof", () => {
  expect(RpcTensor.offsets).toEqual({
    id: 0,
    type: 8,
    buffer: 12,
    ne: 20,
    nb: 36,
    op: 52,
    opParams: 56,
    flags: 120,
    src: 124,
    viewSrc: 204,
    viewOffset: 212,
    data: 220,
    name: 228,
    useCount: 292,
  })
  expect(SetTensorPrefix.offsets).toEqual({ tensor: 0, cacheFlag: 296, offsetBytes: 297 })
  expect(SetTensor2dPrefix.offsets).toEqual({
    tensor: 0,
    offsetBytes: 296,
    sizeBytes: 304,
    runCount: 312,
    strideBytes: 320,
  })
  expect(GetTensor2dRequest.offsets).toEqual(SetTensor2dPrefix.offsets)
  expect(CommInitRequest.offsets).toEqual({ device: 0, rank: 4, worldSize: 8, port: 12, host: 16 })
  expect(GetAllocSizeRequest.offsets).toEqual({ device: 0, tensor: 4, srcs: 300 })
})

const Mixed = record("Mixed", {
  small: u8,
  pair: array(u32, 2),
  nested: record("Inner", { signed: i32, text: cstring(4) }),
  raw: bytes(3),
  wide: u64,
})
const mixed = {
  small: 1,
  pair: [2, 0xffff_ffff],
  nested: { signed: -3, text: "abc" },
  raw: Uint8Array.of(7, 8, 9),
  wide: 0xffff_ffff_ffff_ffffn,
}

describe("record", () => {
  test("lays fields out without gaps, little endian, at any offset", () => {
    const view = room(2 + Mixed.size + 1)
    Mixed.encode(mixed, view, 2)
    const hex = Buffer.from(view.buffer).toString("hex")
    expect(hex).toBe(
      `${"0000"}${"01"}02000000ffffffff${"fdffffff"}61626300${"070809"}${"ffffffffffffffff"}00`,
    )
    expect<unknown>(Mixed.decode(view, 2)).toEqual(mixed)
  })

  test("decoded bytes are a copy", () => {
    const view = room(Mixed.size)
    Mixed.encode(mixed, view)
    const { raw } = Mixed.decode(view)
    new Uint8Array(view.buffer).fill(0)
    expect(raw).toEqual(Uint8Array.of(7, 8, 9))
  })

  const wrong: readonly [string, object, string][] = [
    ["a number above its field", { small: 256 }, "Mixed.small"],
    ["a negative number", { small: -1 }, "Mixed.small"],
    ["a fraction", { small: 0.5 }, "Mixed.small"],
    ["NaN", { small: Number.NaN }, "Mixed.small"],
    ["a missing field", { small: undefined }, "Mixed.small"],
    ["a short array", { pair: [1] }, "Mixed.pair"],
    ["an array entry out of range", { pair: [1, -1] }, "Mixed.pair"],
    ["text that fills its field", { nested: { signed: 0, text: "abcd" } }, "Inner.text"],
    ["text that is too long in UTF-8", { nested: { signed: 0, text: "éé" } }, "Inner.text"],
    ["text with NUL", { nested: { signed: 0, text: "a\0" } }, "Inner.text"],
    ["no nested record", { nested: null }, "Inner"],
    ["bytes of another length", { raw: new Uint8Array(2) }, "Mixed.raw"],
    ["a bigint above u64", { wide: 1n << 64n }, "Mixed.wide"],
    ["a negative bigint", { wide: -1n }, "Mixed.wide"],
    ["a number for a bigint", { wide: 1 }, "Mixed.wide"],
  ]
  for (const [what, change, field] of wrong) {
    test(`encode refuses ${what}`, () => {
      try {
        Mixed.encode({ ...mixed, ...change }, room(Mixed.size))
        throw new Error("was accepted")
      } catch (error) {
        expect(error).toBeInstanceOf(ProtocolError)
        expect((error as ProtocolError).field).toBe(field)
      }
    })
  }

  test("a view that is short by one byte is refused, both ways", () => {
    expect(() => Mixed.decode(room(Mixed.size - 1))).toThrow(ProtocolError)
    expect(() => Mixed.decode(room(Mixed.size), 1)).toThrow(ProtocolError)
    expect(() => Mixed.decode(room(Mixed.size), -1)).toThrow(ProtocolError)
    expect(() => Mixed.encode(mixed, room(Mixed.size - 1))).toThrow(ProtocolError)
  })
})

describe("RpcTensor", () => {
  test("encode and decode are inverse", () => {
    fc.assert(
      fc.property(tensor, fc.nat(9), (value, offset) => {
        const view = room(RpcTensor.size + offset)
        RpcTensor.encode(value, view, offset)
        expect(RpcTensor.decode(view, offset)).toEqual(value)
      }),
    )
  })

  test("any 296 bytes decode, and all but the name come back", () => {
    const any = fc.uint8Array({ minLength: RpcTensor.size, maxLength: RpcTensor.size })
    fc.assert(
      fc.property(any, (raw) => {
        const value = RpcTensor.decode(new DataView(raw.buffer, raw.byteOffset, raw.length))
        const view = room(RpcTensor.size)
        RpcTensor.encode({ ...value, name: "" }, view)
        const expected = Uint8Array.from(raw).fill(0, 228, 292)
        expect(new Uint8Array(view.buffer)).toEqual(expected)
      }),
    )
  })

  test("garbage after a name's NUL is ignored, and bytes that are no UTF-8 do not throw", () => {
    const raw = new Uint8Array(RpcTensor.size)
    raw.set([0x6b, 0x71, 0, 0xff, 0x41], RpcTensor.offsets.name)
    expect(RpcTensor.decode(new DataView(raw.buffer)).name).toBe("kq")
    raw.set([0x6b, 0xff, 0], RpcTensor.offsets.name)
    expect(RpcTensor.decode(new DataView(raw.buffer)).name).toBe("k\ufffd")
    raw.fill(0x61, RpcTensor.offsets.name, RpcTensor.offsets.useCount)
    expect(RpcTensor.decode(new DataView(raw.buffer)).name).toBe("a".repeat(64))
  })

  test("a byte order mark is part of a name", () => {
    const view = room(RpcTensor.size)
    RpcTensor.encode({ ...ABSENT_TENSOR, name: "\ufeffq" }, view)
    expect(RpcTensor.decode(view).name).toBe("\ufeffq")
  })

  test("an absent tensor is 296 zero bytes", () => {
    const view = room(RpcTensor.size)
    new Uint8Array(view.buffer).fill(0xaa)
    RpcTensor.encode(ABSENT_TENSOR, view)
    expect(new Uint8Array(view.buffer)).toEqual(new Uint8Array(RpcTensor.size))
  })
})
