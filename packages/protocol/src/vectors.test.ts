import { describe, expect, test } from "bun:test"
import {
  commandOf,
  expectedValue,
  hashVectors,
  messagesOf,
  named,
  vectors,
} from "../fixtures/vectors.ts"
import {
  BufferRequest,
  Command,
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  Fnv1a64,
  type FrameSink,
  fnv1a64,
  HelloResponse,
  type PayloadCodec,
  ProtocolError,
  type ProtocolSpec,
  parseGraphHeader,
  RequestDecoder,
  RpcTensor,
  record,
  SetTensorPrefix,
  V7_0_0,
} from "./index.ts"
import { empty, fixed, withData } from "./payload.ts"

const view = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.length)

const tensorBytes = (value: RpcTensor): Uint8Array => {
  const bytes = new Uint8Array(RpcTensor.size)
  RpcTensor.encode(value, view(bytes))
  return bytes
}

describe("7.0.0 requests", () => {
  for (const vector of messagesOf("7.0.0", "request")) {
    test(vector.name, () => {
      const command = commandOf(vector)
      expect<number>(command).toBe(vector.decoded.commandId as number)
      expect(vector.payload.length).toBe(vector.decoded.payloadSize as number)
      const value = decodeRequest(command, vector.payload)
      expect<unknown>(value).toEqual(expectedValue(vector.decoded))
      expect(encodeRequest(command, value)).toEqual(vector.bytes)
    })
  }
})

describe("7.0.0 responses", () => {
  for (const vector of messagesOf("7.0.0", "response")) {
    test(vector.name, () => {
      const command = commandOf(vector)
      expect(vector.payload.length).toBe(vector.decoded.payloadSize as number)
      const value = decodeResponse(command, vector.payload)
      expect<unknown>(value).toEqual(expectedValue(vector.decoded))
      expect(encodeResponse(command, value)).toEqual(vector.bytes)
    })
  }
})

describe("tensors of every version", () => {
  for (const vector of vectors.filter((vector) => vector.direction === "struct")) {
    test(vector.name, () => {
      const value = RpcTensor.decode(view(vector.bytes))
      expect<unknown>(value).toEqual(expectedValue(vector.decoded))
      expect(tensorBytes(value)).toEqual(vector.bytes)
    })
  }

  // Where the tensors lie in messages whose other parts older versions lay out differently.
  const embedded = [
    { name: "3.0.0 set tensor a", offset: 0 },
    { name: "3.0.0 alloc size request", offset: 4 },
  ]
  for (const { name, offset } of embedded) {
    test(name, () => {
      const vector = named(name)
      const value = RpcTensor.decode(view(vector.payload), offset)
      const { tensor } = expectedValue(vector.decoded)
      expect<unknown>(value).toEqual(tensor)
    })
  }

  test("2.0.0 graph of 1 node", () => {
    const vector = named("2.0.0 graph of 1 node")
    const { tensors } = expectedValue(vector.decoded)
    const first = vector.payload.length - 2 * RpcTensor.size
    const values = [0, 1].map((n) =>
      RpcTensor.decode(view(vector.payload), first + n * RpcTensor.size),
    )
    expect<unknown>(values).toEqual(tensors)
  })
})

test("the linux RDMA hello keeps its capability bytes", () => {
  const vector = vectors.find((vector) => vector.name.includes("Linux RDMA"))!
  const caps = view(decodeRequest(14, vector.payload).connCaps)
  expect(caps.getUint32(0, true)).toBe(vector.decoded.qpn as number)
  expect(caps.getUint32(4, true)).toBe(vector.decoded.psn as number)
})

test("the graph vector's layout is found without decoding it", () => {
  const vector = named("graph of 3 nodes")
  const layout = parseGraphHeader(view(vector.payload), vector.payload.length)
  expect(layout).toEqual({
    device: 0,
    nodeCount: 3,
    nodeIdsOffset: 8,
    tensorCount: 5,
    tensorsOffset: 36,
    trailingBytes: 0,
  })
})

describe("older versions", () => {
  /** Same layout as 7.0.0, so its codec reads them. */
  const shared = ["4.0.1 hello response", "3.0.0 graph of 1 node"]

  /** Only their tensors are checked above; the messages wait for the tables of their versions. */
  const later = [
    "3.0.0 hello request",
    "3.0.0 hello response",
    "3.6.0 hello response",
    "3.0.0 set tensor a",
    "3.0.0 alloc size request",
    "3.0.0 graph response, success",
    "3.0.0 free buffer response",
    "2.0.0 alloc request",
    "2.0.0 graph of 1 node",
  ]

  test("every message is either read here or listed as later", () => {
    const names = vectors
      .filter((vector) => vector.protocol !== "7.0.0" && vector.direction !== "struct")
      .map((vector) => vector.name)
    expect(names.toSorted()).toEqual([...shared, ...later].toSorted())
  })

  test("4.0.1 hello response", () => {
    const vector = named("4.0.1 hello response")
    const value = HelloResponse.decode(view(vector.payload))
    expect<unknown>(value).toEqual(expectedValue(vector.decoded))
  })

  test("3.0.0 graph of 1 node", () => {
    const vector = named("3.0.0 graph of 1 node")
    const value = decodeRequest(10, vector.payload)
    expect<unknown>(value).toEqual(expectedValue(vector.decoded))
    expect(encodeRequest(10, value)).toEqual(vector.bytes)
  })

  // A SET_TENSOR without the cache flag has no size of its own and cannot be told apart.
  for (const name of later.filter((name) => name !== "3.0.0 set tensor a")) {
    test(`7.0.0 refuses ${name}`, () => {
      const vector = named(name)
      const decode = vector.direction === "request" ? decodeRequest : decodeResponse
      expect(() => decode(commandOf(vector), vector.payload)).toThrow(ProtocolError)
    })
  }
})

describe("an older version is a difference", () => {
  const { cacheFlag: _, ...fields } = SetTensorPrefix.fields
  const prefix = withData(record("SetTensorPrefix", fields))
  const acknowledgement: PayloadCodec<undefined> = {
    ...empty,
    sizeOf: () => 0,
    decode: () => undefined,
    encode: () => {},
  }
  const older: ProtocolSpec = {
    ...V7_0_0,
    version: { major: 5, minor: 1, patch: 0 },
    commands: {
      ...V7_0_0.commands,
      SET_TENSOR: {
        request: {
          ...prefix,
          decode: (...payload) => ({ ...prefix.decode(...payload), cacheFlag: 0 }),
        },
        response: null,
      },
      FREE_BUFFER: { request: fixed(BufferRequest), response: acknowledgement },
    },
    features: { ...V7_0_0.features, setTensorCacheFlag: false },
  }

  test("SET_TENSOR without its cache flag has the same value", () => {
    const vector = named("3.0.0 set tensor a")
    const value = decodeRequest(6, vector.payload, older)
    expect<unknown>(value).toEqual({ ...expectedValue(vector.decoded), cacheFlag: 0 })
    expect(encodeRequest(6, value, older)).toEqual(vector.bytes)
  })

  test("the frame decoder streams from where the version's data starts", () => {
    const seen: number[] = []
    const sink: FrameSink = {
      message: () => {},
      streamStart: (_, prefix, dataSizeBytes) => seen.push(prefix.length, dataSizeBytes),
      streamData: () => {},
      streamEnd: () => {},
    }
    new RequestDecoder(sink, { spec: older }).push(named("3.0.0 set tensor a").bytes)
    expect(seen).toEqual([304, 16])
  })

  test("FREE_BUFFER is answered by 8 zero bytes", () => {
    const vector = named("3.0.0 free buffer response")
    expect(encodeResponse(Command.FREE_BUFFER, undefined, older)).toEqual(vector.bytes)
    expect(decodeResponse(Command.FREE_BUFFER, vector.payload, older)).toBeUndefined()
  })
})

describe("fnv1a64", () => {
  const ascii = (text: string) => new TextEncoder().encode(text)
  const inputs: { readonly [input: string]: Uint8Array } = {
    empty: new Uint8Array(0),
    'ascii "a"': ascii("a"),
    'ascii "foobar"': ascii("foobar"),
    'ascii "ggml"': ascii("ggml"),
    "1 MiB (1048576) of 0x00": new Uint8Array(1048576),
    "bytes 0x00..0xff repeated to 64 KiB": Uint8Array.from({ length: 65536 }, (_, n) => n & 0xff),
    "8 bytes 00..07": Uint8Array.from({ length: 8 }, (_, n) => n),
    "64 KiB of 0xff": new Uint8Array(65536).fill(0xff),
  }
  for (const vector of hashVectors) {
    test(vector.input, () => {
      const input = inputs[vector.input]!
      expect(input.length).toBe(vector.length)
      expect(fnv1a64(input)).toBe(BigInt(vector.hash))
      expect(new Fnv1a64().update(input).digestHex()).toBe(vector.fileName)
    })
  }

  test("the hash that the SET_TENSOR_HASH vector offers", () => {
    const { hash } = decodeRequest(7, named("offer a hash").payload)
    expect(fnv1a64(new Uint8Array(12582912).fill(7))).toBe(hash)
  })
})
