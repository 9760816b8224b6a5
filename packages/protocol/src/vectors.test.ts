import { describe, expect, test } from "bun:test"
import { fnv1a64 } from "../fixtures/fnv1a64.ts"
import {
  commandOf,
  expectedMessage,
  expectedValue,
  hashVectors,
  named,
  specOf,
  transcripts,
  vectors,
} from "../fixtures/vectors.ts"
import {
  commandSpec,
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  Fnv1a64,
  type FrameSink,
  findVersion,
  formatVersion,
  type MessageId,
  newest,
  noConnCaps,
  ProtocolError,
  RequestDecoder,
  ResponseDecoder,
  RpcTensor,
  versions,
} from "./index.ts"

const view = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.length)

const tensorBytes = (value: RpcTensor): Uint8Array => {
  const bytes = new Uint8Array(RpcTensor.size)
  RpcTensor.encode(value, view(bytes))
  return bytes
}

describe("requests", () => {
  for (const vector of vectors.filter(({ direction }) => direction === "request")) {
    test(`${vector.protocol}: ${vector.name}`, () => {
      const command = commandOf(vector)
      const spec = specOf(vector)
      expect<number>(command).toBe(vector.decoded.commandId as number)
      expect(vector.bytes[0]).toBe(command)
      expect(vector.payload.length).toBe(vector.decoded.payloadSize as number)
      const value = decodeRequest(command, vector.payload, spec)
      expect<unknown>(value).toEqual(expectedMessage(vector))
      expect(encodeRequest(command, value, spec)).toEqual(vector.bytes)
    })
  }
})

describe("responses", () => {
  for (const vector of vectors.filter(({ direction }) => direction === "response")) {
    test(`${vector.protocol}: ${vector.name}`, () => {
      const command = commandOf(vector)
      const spec = specOf(vector)
      expect(vector.payload.length).toBe(vector.decoded.payloadSize as number)
      const value = decodeResponse(command, vector.payload, spec)
      expect<unknown>(value).toEqual(expectedMessage(vector))
      expect(encodeResponse(command, value, spec)).toEqual(vector.bytes)
    })
  }
})

describe("tensors", () => {
  for (const vector of vectors.filter((vector) => vector.direction === "struct")) {
    test(vector.name, () => {
      const value = RpcTensor.decode(view(vector.bytes))
      expect<unknown>(value).toEqual(expectedValue(vector.decoded))
      expect(tensorBytes(value)).toEqual(vector.bytes)
    })
  }
})

describe("between two servers", () => {
  test("the capabilities are those of HELLO", () => {
    expect<Uint8Array>(named("peer link: caps, rank 1 first, then rank 0").bytes).toEqual(
      noConnCaps(),
    )
  })

  test("a partial sum is the tensor's bytes", () => {
    const { bytes } = named("peer link: partial 1,2,3,4 below 32768 elements")
    expect([...new Float32Array(bytes.buffer)]).toEqual([1, 2, 3, 4])
  })
})

test("every vector is of a direction that is checked above", () => {
  const checked = ["request", "response", "struct", "peer"]
  expect(vectors.filter(({ direction }) => !checked.includes(direction))).toEqual([])
  expect(vectors.filter(({ direction }) => direction === "peer").length).toBe(2)
})

test("the linux RDMA hello keeps its capability bytes", () => {
  const vector = vectors.find((vector) => vector.name.includes("Linux RDMA"))!
  const caps = view(decodeRequest(14, vector.payload, specOf(vector)).connCaps)
  expect(caps.getUint32(0, true)).toBe(vector.decoded.qpn as number)
  expect(caps.getUint32(4, true)).toBe(vector.decoded.psn as number)
})

describe("one version's message in another version", () => {
  /** Every message of a vector whose payload a version cannot take, as its size or its command says. */
  const refused = (name: string): readonly string[] => {
    const vector = named(name)
    const decode = vector.direction === "request" ? decodeRequest : decodeResponse
    return versions
      .filter((spec) => {
        try {
          decode(commandOf(vector), vector.payload, spec)
          return false
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolError)
          return true
        }
      })
      .map(({ version }) => formatVersion(version))
      .toReversed()
  }
  const all = versions.map(({ version }) => formatVersion(version)).toReversed()
  const from = (first: string) => all.slice(all.indexOf(first))
  const before = (first: string) => all.slice(0, all.indexOf(first))

  const cases: readonly [name: string, refusing: readonly string[]][] = [
    ["3.0.0 hello request", from("4.0.0")],
    ["3.0.0 hello response", from("4.0.0")],
    ["8.0.0 hello request, no RDMA", before("4.0.0")],
    ["8.0.0 hello response, no RDMA", before("4.0.0")],
    ["2.0.0 alloc request", from("3.0.0")],
    ["3.0.0 alloc size request", ["2.0.0", ...from("3.6.0")]],
    ["3.0.0 graph response, success", from("3.5.0")],
    ["3.0.0 free buffer response", from("6.0.0")],
    ["recompute a uid on device 0", before("8.0.0")],
    ["get columns 0..1 of both rows of m", before("8.0.0")],
    ["set columns 2..3 of both rows of m (4x2 f32)", before("8.0.0")],
    ["comm free", before("8.0.0")],
  ]
  for (const [name, refusing] of cases) {
    test(name, () => expect(refused(name)).toEqual(refusing))
  }
})

describe("data streams from where the version's data starts", () => {
  const seen = (name: string): readonly number[] => {
    const vector = named(name)
    const sizes: number[] = []
    const sink: FrameSink = {
      message: () => {},
      streamStart: (_, prefix, dataSizeBytes) => sizes.push(prefix.length, dataSizeBytes),
      streamData: () => {},
      streamEnd: () => {},
    }
    new RequestDecoder(sink, { spec: specOf(vector) }).push(vector.bytes)
    return sizes
  }

  test("SET_TENSOR", () => expect(seen("3.0.0 set tensor a")).toEqual([304, 16]))
  test("SET_TENSOR_2D", () => {
    expect(seen("set columns 2..3 of both rows of m (4x2 f32)")).toEqual([328, 16])
  })
})

describe("recorded connections", () => {
  const spec = findVersion("8.0.0")!

  /** Reads a whole connection as both of its ends do, and puts together again what they heard. */
  const replay = (messages: (typeof transcripts)[number]["messages"], pieceBytes: number) => {
    const heard: { from: string; command: MessageId; bytes: Uint8Array }[] = []
    const hear = (from: "client" | "server"): FrameSink => {
      const data: number[] = []
      const value = (command: MessageId, payload: Uint8Array) => {
        const bytes =
          from === "client"
            ? encodeRequest(command, decodeRequest(command, payload, spec), spec)
            : encodeResponse(command, decodeResponse(command, payload, spec), spec)
        heard.push({ from, command, bytes })
      }
      return {
        message: value,
        streamStart: (_, prefix) => data.splice(0, data.length, ...prefix),
        streamData: (_, chunk) => data.push(...chunk),
        streamEnd: (command) => value(command, Uint8Array.from(data)),
      }
    }
    const server = new RequestDecoder(hear("client"), { spec })
    const client = new ResponseDecoder(hear("server"), { spec })
    for (const { from, command, bytes } of messages) {
      if (from === "client" && commandSpec(command, spec)?.response !== null) client.expect(command)
      const decoder = from === "client" ? server : client
      for (let at = 0; at < bytes.length; at += pieceBytes) {
        decoder.push(bytes.subarray(at, at + pieceBytes))
      }
    }
    server.finish()
    client.finish()
    expect(client.expectedCount).toBe(0)
    return heard
  }

  for (const { name, messages } of transcripts) {
    for (const pieceBytes of [1 << 20, 7, 1]) {
      test(`${name}, in pieces of ${pieceBytes} bytes`, () => {
        expect(messages.length).toBeGreaterThan(3)
        expect<unknown>(replay(messages, pieceBytes)).toEqual(messages)
      })
    }
  }
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
    const { hash } = decodeRequest(7, named("offer a hash").payload, newest)
    expect(fnv1a64(new Uint8Array(12582912).fill(7))).toBe(hash)
  })
})
