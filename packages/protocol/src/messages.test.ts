import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import { requests, responses, tensor } from "../fixtures/arbitraries.ts"
import { vectors } from "../fixtures/vectors.ts"
import {
  Command,
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  Fnv1a64,
  type MessageId,
  type MessageName,
  ProtocolError,
  RpcTensor,
  SET_TENSOR_PREFIX_SIZE_BYTES,
  writeGetTensorRequest,
  writeGraphRecomputeRequest,
  writeRequestHeader,
  writeResponseHeader,
  writeSetTensorHashRequest,
  writeSetTensorPrefix,
} from "./index.ts"

const names = Object.keys(requests) as MessageName[]
const answered = Object.keys(responses) as (keyof typeof responses)[]
const silent = names.filter((name) => !(name in responses))

/** Runs `decode`; anything but a value or a `ProtocolError` fails the test. */
const onlyProtocolError = (decode: () => unknown): void => {
  try {
    decode()
  } catch (error) {
    expect(error).toBeInstanceOf(ProtocolError)
  }
}

test("the generators cover every command that travels", () => {
  expect(names.map((name) => Command[name]).toSorted((a, b) => a - b)).toEqual(
    Array.from({ length: 18 }, (_, id) => id as MessageId),
  )
})

describe("round trips", () => {
  for (const name of names) {
    test(`${name} request`, () => {
      const command = Command[name]
      fc.assert(
        fc.property(requests[name] as fc.Arbitrary<never>, (value) => {
          const frame = encodeRequest(command, value)
          const view = new DataView(frame.buffer)
          expect(frame[0]).toBe(command)
          expect(view.getBigUint64(1, true)).toBe(BigInt(frame.length - 9))
          expect<unknown>(decodeRequest(command, frame.subarray(9))).toEqual(value)
        }),
        { numRuns: 50 },
      )
    })
  }

  for (const name of answered) {
    test(`${name} response`, () => {
      const command = Command[name]
      fc.assert(
        fc.property(responses[name] as fc.Arbitrary<never>, (value) => {
          const frame = encodeResponse(command, value)
          const view = new DataView(frame.buffer)
          expect(view.getBigUint64(0, true)).toBe(BigInt(frame.length - 8))
          expect<unknown>(decodeResponse(command, frame.subarray(8))).toEqual(value)
        }),
        { numRuns: 50 },
      )
    })
  }
})

describe("decoding anything", () => {
  const command = fc.nat(255) as fc.Arbitrary<MessageId>
  const sizes = fc.constantFrom(0, 1, 4, 8, 9, 12, 16, 24, 28, 296, 305, 312, 313, 592, 3260)
  const payload = fc.oneof(
    fc.uint8Array({ maxLength: 4000 }),
    sizes.chain((size) => fc.uint8Array({ minLength: size, maxLength: size })),
  )

  test("random bytes as any command give a value or a ProtocolError", () => {
    fc.assert(
      fc.property(command, payload, (id, bytes) => {
        onlyProtocolError(() => decodeRequest(id, bytes))
        onlyProtocolError(() => decodeResponse(id, bytes))
      }),
      { numRuns: 2000 },
    )
  })

  test("bytes of the right size always decode", () => {
    for (const name of names.filter((name) => name !== "GRAPH_COMPUTE")) {
      const size = encodeRequest(
        Command[name],
        fc.sample(requests[name] as fc.Arbitrary<never>, 1)[0]!,
      )
      const exact = fc.uint8Array({ minLength: size.length - 9, maxLength: size.length - 9 })
      fc.assert(
        fc.property(exact, (bytes) => {
          decodeRequest(Command[name], bytes)
        }),
        { numRuns: 20 },
      )
    }
  })

  const mutation = fc.record({
    flips: fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 6 }),
    cut: fc.option(fc.nat(), { nil: undefined }),
    tail: fc.uint8Array({ maxLength: 20 }),
  })
  const messages = vectors.filter((vector) => vector.direction !== "struct")

  test("mutated vectors give a value or a ProtocolError", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...messages),
        mutation,
        ({ command, direction, payload }, change) => {
          const kept = change.cut === undefined ? payload.length : change.cut % (payload.length + 1)
          const bytes = Uint8Array.of(...payload.subarray(0, kept), ...change.tail)
          for (const [at, value] of change.flips)
            if (bytes.length > 0) bytes[at % bytes.length] = value
          const decode = direction === "request" ? decodeRequest : decodeResponse
          onlyProtocolError(() => decode(Command[command as MessageName], bytes))
        },
      ),
      { numRuns: 3000 },
    )
  })
})

describe("refusals name the command and the field", () => {
  const caught = (run: () => unknown): ProtocolError => {
    try {
      run()
    } catch (error) {
      if (error instanceof ProtocolError) return error
      throw error
    }
    throw new Error("nothing was thrown")
  }

  for (const name of names.filter((name) => !["SET_TENSOR", "GRAPH_COMPUTE"].includes(name))) {
    test(`${name} one byte too long and one too short`, () => {
      const sample = fc.sample(requests[name] as fc.Arbitrary<never>, 1)[0]!
      const size = encodeRequest(Command[name], sample).length - 9
      const lengths = size === 0 ? [1] : [size - 1, size + 1]
      for (const length of lengths) {
        const error = caught(() => decodeRequest(Command[name], new Uint8Array(length)))
        expect(error).toMatchObject({
          _tag: "ProtocolError",
          command: name,
          field: "payload_size",
          value: length,
        })
        expect(error.message).toBe(`${name}: payload_size must be ${size} bytes (got ${length})`)
      }
    })
  }

  test("SET_TENSOR without its whole prefix", () => {
    const error = caught(() => decodeRequest(Command.SET_TENSOR, new Uint8Array(304)))
    expect(error.message).toBe("SET_TENSOR: payload_size must be at least 305 bytes (got 304)")
  })

  test("NONE and unknown commands", () => {
    for (const id of [18, 19, 128, 255]) {
      const error = caught(() => decodeRequest(id as MessageId, new Uint8Array(0)))
      expect(error.field).toBe("command")
      expect(error.value).toBe(id)
    }
  })

  for (const name of silent) {
    test(`${name} has no response`, () => {
      expect(caught(() => decodeResponse(Command[name], new Uint8Array(0))).field).toBe("response")
      expect(caught(() => encodeResponse(Command[name], undefined as never)).field).toBe("response")
    })
  }
})

describe("writers without allocation emit what the tables emit", () => {
  const size = fc.oneof(
    fc.nat(5000),
    fc.maxSafeNat().map((value) => Math.floor(value / 2)),
  )
  const tensorBytes = (value: RpcTensor, start: number): Uint8Array => {
    const bytes = new Uint8Array(start + RpcTensor.size)
    RpcTensor.encode(value, new DataView(bytes.buffer), start)
    return bytes
  }

  test("writeSetTensorPrefix", () => {
    fc.assert(
      fc.property(
        requests.SET_TENSOR,
        fc.constantFrom<0 | 1>(0, 1),
        size,
        fc.nat(300),
        (value, cacheFlag, at, start) => {
          const whole = encodeRequest(Command.SET_TENSOR, {
            ...value,
            cacheFlag,
            offsetBytes: BigInt(at),
          })
          const target = new Uint8Array(start + SET_TENSOR_PREFIX_SIZE_BYTES)
          const tensors = tensorBytes(value.tensor, start)
          const end = writeSetTensorPrefix(
            target,
            start,
            tensors,
            start,
            cacheFlag,
            at,
            value.data.length,
          )
          expect(end).toBe(target.length)
          expect(target.subarray(start)).toEqual(whole.subarray(0, SET_TENSOR_PREFIX_SIZE_BYTES))
        },
      ),
    )
  })

  test("writeSetTensorPrefix announces data of more than 4 GiB", () => {
    const target = new Uint8Array(SET_TENSOR_PREFIX_SIZE_BYTES)
    writeSetTensorPrefix(target, 0, new Uint8Array(296), 0, 0, 0, 5 * 2 ** 30)
    expect(new DataView(target.buffer).getBigUint64(1, true)).toBe(5n * 2n ** 30n + 305n)
  })

  test("writeGetTensorRequest", () => {
    fc.assert(
      fc.property(tensor, size, size, (value, at, count) => {
        const whole = encodeRequest(Command.GET_TENSOR, {
          tensor: value,
          offsetBytes: BigInt(at),
          sizeBytes: BigInt(count),
        })
        const target = new Uint8Array(5 + whole.length)
        expect(writeGetTensorRequest(target, 5, tensorBytes(value, 2), 2, at, count)).toBe(
          target.length,
        )
        expect(target.subarray(5)).toEqual(whole)
      }),
    )
  })

  test("writeSetTensorHashRequest", () => {
    fc.assert(
      fc.property(tensor, size, fc.uint8Array(), (value, at, data) => {
        const hash = new Fnv1a64().update(data)
        const whole = encodeRequest(Command.SET_TENSOR_HASH, {
          tensor: value,
          offsetBytes: BigInt(at),
          hash: hash.digest(),
        })
        const target = new Uint8Array(whole.length)
        const tensors = tensorBytes(value, 0)
        writeSetTensorHashRequest(target, 0, tensors, 0, at, hash.digestLo(), hash.digestHi())
        expect(target).toEqual(whole)
      }),
    )
  })

  test("writeGraphRecomputeRequest and the headers", () => {
    const whole = encodeRequest(Command.GRAPH_RECOMPUTE, { device: 0x0102_0304 })
    const target = new Uint8Array(whole.length)
    expect(writeGraphRecomputeRequest(target, 0, 0x0102_0304)).toBe(13)
    expect(target).toEqual(whole)
    const header = new DataView(new ArrayBuffer(10))
    writeRequestHeader(header, 1, Command.GRAPH_RECOMPUTE, 4)
    expect(new Uint8Array(header.buffer, 1)).toEqual(whole.subarray(0, 9))
    writeResponseHeader(header, 1, 2 ** 40 + 1)
    expect(header.getBigUint64(1, true)).toBe(2n ** 40n + 1n)
  })
})
