import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import { requestOf, requests, responseOf, responses } from "../fixtures/arbitraries.ts"
import { specOf, vectors } from "../fixtures/vectors.ts"
import {
  Command,
  commandSpec,
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  formatVersion,
  type MessageId,
  type MessageName,
  newest,
  ProtocolError,
  versions,
  writeRequestHeader,
} from "./index.ts"

const names = Object.keys(requests) as MessageName[]
const silent = names.filter((name) => newest.commands[name]?.response === null)

/** Runs `decode`; anything but a value or a `ProtocolError` fails the test. */
const onlyProtocolError = (decode: () => unknown): void => {
  try {
    decode()
  } catch (error) {
    expect(error).toBeInstanceOf(ProtocolError)
  }
}

test("the generators cover every command", () => {
  expect(names.toSorted()).toEqual(Object.keys(Command).toSorted() as MessageName[])
  const answered = names.filter((name) =>
    versions.some((spec) => (spec.commands[name]?.response?.maxSizeBytes ?? 0) > 0),
  )
  expect(Object.keys(responses).toSorted()).toEqual(answered.toSorted())
})

for (const spec of versions) {
  describe(`round trips of ${formatVersion(spec.version)}`, () => {
    const numRuns = spec === newest ? 50 : 15

    for (const name of names.filter((name) => spec.commands[name] !== undefined)) {
      const command = Command[name]
      test(`${name} request`, () => {
        fc.assert(
          fc.property(requestOf(name, spec) as fc.Arbitrary<never>, (value) => {
            const frame = encodeRequest(command, value, spec)
            const view = new DataView(frame.buffer)
            expect(frame[0]).toBe(command)
            expect(view.getBigUint64(1, true)).toBe(BigInt(frame.length - 9))
            expect<unknown>(decodeRequest(command, frame.subarray(9), spec)).toEqual(value)
          }),
          { numRuns },
        )
      })

      if (spec.commands[name]!.response === null) continue
      test(`${name} response`, () => {
        fc.assert(
          fc.property(responseOf(name, spec) as fc.Arbitrary<never>, (value) => {
            const frame = encodeResponse(command, value, spec)
            const view = new DataView(frame.buffer)
            expect(view.getBigUint64(0, true)).toBe(BigInt(frame.length - 8))
            expect<unknown>(decodeResponse(command, frame.subarray(8), spec)).toEqual(value)
          }),
          { numRuns },
        )
      })
    }
  })
}

describe("what a version cannot say is refused, where leaving it out would change its meaning", () => {
  const oldest = versions[versions.length - 1]!
  const sample = (name: MessageName): object =>
    fc.sample(requestOf(name, oldest) as fc.Arbitrary<object>, 1)[0]!
  const oneDevice = [
    "ALLOC_BUFFER",
    "GET_ALIGNMENT",
    "GET_MAX_SIZE",
    "GET_DEVICE_MEMORY",
    "GET_ALLOC_SIZE",
    "GRAPH_COMPUTE",
  ] as const
  for (const name of oneDevice) {
    test(`${name} of a second device`, () => {
      const value = { ...sample(name), device: 1 }
      const encode = () => encodeRequest(Command[name], value as never, oldest)
      expect(encode).toThrow("device must be 0 in this version (got 1)")
    })
  }
})

describe("decoding anything", () => {
  const command = fc.nat(255) as fc.Arbitrary<MessageId>
  const sizes = fc.constantFrom(
    ...[0, 1, 3, 4, 8, 9, 12, 16, 20, 24, 28, 80, 296, 300, 304, 305, 312, 313, 328, 592, 3260],
  )
  const payload = fc.oneof(
    fc.uint8Array({ maxLength: 4000 }),
    sizes.chain((size) => fc.uint8Array({ minLength: size, maxLength: size })),
  )

  test("random bytes as any command give a value or a ProtocolError", () => {
    fc.assert(
      fc.property(command, payload, fc.constantFrom(...versions), (id, bytes, spec) => {
        onlyProtocolError(() => decodeRequest(id, bytes, spec))
        onlyProtocolError(() => decodeResponse(id, bytes, spec))
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
  const messages = vectors.filter(({ direction }) => ["request", "response"].includes(direction))

  test("mutated vectors give a value or a ProtocolError", () => {
    fc.assert(
      fc.property(fc.constantFrom(...messages), mutation, (vector, change) => {
        const { command, direction, payload } = vector
        const kept = change.cut === undefined ? payload.length : change.cut % (payload.length + 1)
        const bytes = Uint8Array.of(...payload.subarray(0, kept), ...change.tail)
        for (const [at, value] of change.flips)
          if (bytes.length > 0) bytes[at % bytes.length] = value
        const decode = direction === "request" ? decodeRequest : decodeResponse
        onlyProtocolError(() => decode(Command[command as MessageName], bytes, specOf(vector)))
      }),
      { numRuns: 3000 },
    )
  })
})

const hasVariableSize = (name: MessageName): boolean => {
  const { minSizeBytes, maxSizeBytes } = newest.commands[name]!.request
  return minSizeBytes !== maxSizeBytes
}

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

  for (const name of names.filter((name) => !hasVariableSize(name))) {
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

  test("unknown commands", () => {
    for (const id of [23, 24, 128, 255]) {
      const error = caught(() => decodeRequest(id as MessageId, new Uint8Array(0)))
      expect(error.field).toBe("command")
      expect(error.value).toBe(id)
    }
  })

  test("a command that a version lacks", () => {
    for (const spec of versions) {
      for (const name of names) {
        if (commandSpec(Command[name], spec) !== undefined) continue
        const error = caught(() => decodeRequest(Command[name], new Uint8Array(0), spec))
        const version = formatVersion(spec.version)
        expect(error.message).toBe(
          `${name}: command does not exist in protocol ${version} (got ${Command[name]})`,
        )
      }
    }
  })

  for (const name of silent) {
    test(`${name} has no response`, () => {
      expect(caught(() => decodeResponse(Command[name], new Uint8Array(0))).field).toBe("response")
      expect(caught(() => encodeResponse(Command[name], undefined as never)).field).toBe("response")
    })
  }
})

test("headers written by hand are the encoder's", () => {
  const whole = encodeRequest(Command.GRAPH_RECOMPUTE, { device: 0x0102_0304, uid: 5n })
  const header = new DataView(new ArrayBuffer(10))
  writeRequestHeader(header, 1, Command.GRAPH_RECOMPUTE, 12)
  expect(new Uint8Array(header.buffer, 1)).toEqual(whole.subarray(0, 9))
  writeRequestHeader(header, 1, Command.GRAPH_RECOMPUTE, 2 ** 40 + 1)
  expect(header.getBigUint64(2, true)).toBe(2n ** 40n + 1n)
})
