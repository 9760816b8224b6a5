import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import { commandOf, messagesOf, specOf, vectors } from "../fixtures/vectors.ts"
import {
  Command,
  checkRequestHeader,
  type FrameOptions,
  type FrameSink,
  formatVersion,
  type MessageId,
  type MessageName,
  newest,
  ProtocolError,
  RequestDecoder,
  ResponseDecoder,
  versions,
  writeRequestHeader,
} from "./index.ts"

type Event =
  | { readonly header: MessageId; readonly sizeBytes: number }
  | { readonly message: MessageId; readonly payload: Uint8Array }
  | { readonly start: MessageId; readonly prefix: Uint8Array; readonly dataSizeBytes: number }
  | { readonly end: MessageId; readonly data: Uint8Array }

/** A sink that copies what it is told, and puts streamed data together again. */
class Recorder implements FrameSink {
  readonly events: Event[] = []
  onEvent: (() => void) | undefined
  #data: number[] = []

  header(command: MessageId, sizeBytes: number) {
    this.#add({ header: command, sizeBytes })
  }
  message(command: MessageId, payload: Uint8Array) {
    this.#add({ message: command, payload: payload.slice() })
  }
  streamStart(command: MessageId, prefix: Uint8Array, dataSizeBytes: number) {
    this.#data = []
    this.#add({ start: command, prefix: prefix.slice(), dataSizeBytes })
  }
  streamData(_: MessageId, chunk: Uint8Array, dataOffsetBytes: number) {
    expect(chunk.length).toBeGreaterThan(0)
    expect(dataOffsetBytes).toBe(this.#data.length)
    this.#data.push(...chunk)
    this.onEvent?.()
  }
  streamEnd(command: MessageId) {
    this.#add({ end: command, data: Uint8Array.from(this.#data) })
  }
  #add(event: Event) {
    this.events.push(event)
    this.onEvent?.()
  }
}

/** Messages of any version that the newest would send just so. */
const vectorsOf = (direction: "request" | "response") =>
  versions.flatMap((spec) =>
    messagesOf(formatVersion(spec.version), direction).filter(({ command }) => {
      const name = command as MessageName
      return newest.commands[name]![direction] === spec.commands[name]![direction]
    }),
  )
const requestVectors = vectorsOf("request")
const responseVectors = vectorsOf("response")
const join = (parts: readonly Uint8Array[]): Uint8Array =>
  Uint8Array.from(parts.flatMap((part) => [...part]))
const allRequests = join(requestVectors.map((vector) => vector.bytes))
const allResponses = join(responseVectors.map((vector) => vector.bytes))

/** What a decoder should tell of a vector. */
const eventsOf = (
  command: MessageId,
  payload: Uint8Array,
  streamFrom: number | undefined,
): Event[] => {
  const header = { header: command, sizeBytes: payload.length }
  if (streamFrom === undefined) return [header, { message: command, payload }]
  const data = payload.subarray(streamFrom)
  const prefix = payload.subarray(0, streamFrom)
  return [header, { start: command, prefix, dataSizeBytes: data.length }, { end: command, data }]
}

const requestStreams: { readonly [command: string]: number } = {
  SET_TENSOR: 305,
  SET_TENSOR_2D: 328,
}
const responseStreams: { readonly [command: string]: number } = { GET_TENSOR: 0, GET_TENSOR_2D: 0 }

const requestEvents = requestVectors.flatMap((vector) =>
  eventsOf(commandOf(vector), vector.payload, requestStreams[vector.command]),
)
const responseEvents = responseVectors.flatMap((vector) =>
  eventsOf(commandOf(vector), vector.payload, responseStreams[vector.command]),
)

const responseDecoder = (recorder: Recorder): ResponseDecoder => {
  const decoder = new ResponseDecoder(recorder)
  for (const vector of responseVectors) decoder.expect(commandOf(vector))
  return decoder
}

const feed = (
  decoder: RequestDecoder | ResponseDecoder,
  bytes: Uint8Array,
  sizes: readonly number[],
) => {
  let at = 0
  for (let n = 0; at < bytes.length; n++) {
    const chunk = bytes.subarray(at, at + sizes[n % sizes.length]!)
    expect(decoder.push(chunk)).toBe(chunk.length)
    at += chunk.length
  }
}

describe("all vectors in one stream", () => {
  const chunkings: readonly [string, readonly number[]][] = [
    ["at once", [1 << 20]],
    ["byte by byte", [1]],
    ["by 7 bytes", [7]],
    ["header and payload apart", [9, 296, 9, 1]],
  ]
  for (const [how, sizes] of chunkings) {
    test(`requests ${how}`, () => {
      const recorder = new Recorder()
      const decoder = new RequestDecoder(recorder)
      feed(decoder, allRequests, sizes)
      decoder.finish()
      expect(recorder.events).toEqual(requestEvents)
    })

    test(`responses ${how}`, () => {
      const recorder = new Recorder()
      const decoder = responseDecoder(recorder)
      feed(decoder, allResponses, sizes)
      decoder.finish()
      expect(recorder.events).toEqual(responseEvents)
      expect(decoder.expectedCount).toBe(0)
    })
  }

  test("in any chunks", () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 2000 }), { minLength: 1, maxLength: 30 })
    fc.assert(
      fc.property(sizes, (sizes) => {
        const recorder = new Recorder()
        feed(new RequestDecoder(recorder), allRequests, sizes)
        expect(recorder.events).toEqual(requestEvents)
      }),
      { numRuns: 100 },
    )
  })

  test("with a pause after every event nothing is lost, repeated or reordered", () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 1, maxLength: 10 })
    fc.assert(
      fc.property(sizes, (sizes) => {
        const recorder = new Recorder()
        const decoder = new RequestDecoder(recorder)
        recorder.onEvent = () => decoder.pause()
        let at = 0
        for (let n = 0; at < allRequests.length || !decoder.idle; n++) {
          at += decoder.push(allRequests.subarray(at, at + sizes[n % sizes.length]!))
        }
        expect(recorder.events).toEqual(requestEvents)
      }),
      { numRuns: 50 },
    )
  })
})

const header = (command: number, payloadSize: number): Uint8Array => {
  const view = new DataView(new ArrayBuffer(9))
  writeRequestHeader(view, 0, command, payloadSize)
  return new Uint8Array(view.buffer)
}

describe("announcing and streaming", () => {
  test("a header is told with its ninth byte, before any payload", () => {
    const recorder = new Recorder()
    const decoder = new RequestDecoder(recorder)
    const bytes = header(Command.SET_TENSOR, 305 + 4)
    decoder.push(bytes.subarray(0, 8))
    expect(recorder.events).toEqual([])
    decoder.push(bytes.subarray(8))
    expect(recorder.events).toEqual([{ header: Command.SET_TENSOR, sizeBytes: 309 }])
  })

  test("pausing at the header leaves the payload unread", () => {
    const recorder = new Recorder()
    const decoder = new RequestDecoder(recorder)
    recorder.onEvent = () => decoder.pause()
    expect(decoder.push(allRequests)).toBe(9)
    expect(decoder.push(allRequests.subarray(9))).toBe(24)
  })

  test("data is passed on in the chunk's own memory, whatever the announced size", () => {
    const chunks: Uint8Array[] = []
    const sink: FrameSink = {
      message: () => {},
      streamStart: (_, __, dataSizeBytes) => expect(dataSizeBytes).toBe(2 ** 45),
      streamData: (_, chunk) => chunks.push(chunk),
      streamEnd: () => {},
    }
    const decoder = new RequestDecoder(sink)
    decoder.push(header(Command.SET_TENSOR, 305 + 2 ** 45))
    decoder.push(new Uint8Array(305))
    const chunk = new Uint8Array(1000)
    decoder.push(chunk)
    expect(chunks.map((piece) => [piece.buffer, piece.byteOffset, piece.length])).toEqual([
      [chunk.buffer, 0, 1000],
    ])
    expect(decoder.idle).toBe(false)
  })

  test("an announced graph takes no memory before its bytes arrive", () => {
    const taken: number[] = []
    const original = globalThis.Uint8Array
    globalThis.Uint8Array = new Proxy(original, {
      construct(target, args) {
        if (typeof args[0] === "number") taken.push(args[0])
        return Reflect.construct(target, args)
      },
    })
    try {
      const decoder = new RequestDecoder(new Recorder())
      decoder.push(header(Command.GRAPH_COMPUTE, 64 * 1024 * 1024))
      decoder.push(new original(1))
      decoder.push(new original(100_000))
    } finally {
      globalThis.Uint8Array = original
    }
    expect(taken.filter((size) => size > 9)).toEqual([64 * 1024, 128 * 1024])
  })

  test("a graph larger than all buffers comes out whole", () => {
    const payload = Uint8Array.from({ length: 3_000_000 }, (_, n) => n * 7)
    const recorder = new Recorder()
    const decoder = new RequestDecoder(recorder)
    for (let round = 0; round < 2; round++) {
      feed(decoder, join([header(Command.GRAPH_COMPUTE, payload.length)]), [4])
      feed(decoder, payload, [65536, 1, 100_000])
    }
    const messages = recorder.events.filter((event) => "message" in event)
    expect(messages.length).toBe(2)
    for (const { payload: seen } of messages) expect(Buffer.compare(seen, payload)).toBe(0)
  })
})

describe("refusals", () => {
  const refusal = (bytes: Uint8Array, options?: FrameOptions): ProtocolError => {
    const recorder = new Recorder()
    try {
      new RequestDecoder(recorder, options).push(bytes)
    } catch (error) {
      expect(recorder.events).toEqual([])
      if (error instanceof ProtocolError) return error
      throw error
    }
    throw new Error("was accepted")
  }

  test("unknown commands, at the header", () => {
    for (const id of [23, 24, 71, 255]) expect(refusal(header(id, 0)).field).toBe("command")
  })

  test("text of another protocol", () => {
    const text = new TextEncoder().encode("GET / HTTP/1.1\r\n")
    expect(refusal(text).message).toBe(
      `command 71: command does not exist in protocol ${formatVersion(newest.version)} (got 71)`,
    )
  })

  test("wrong sizes, at the header", () => {
    const error = refusal(header(Command.ALLOC_BUFFER, 13))
    expect(error.message).toBe("ALLOC_BUFFER: payload_size must be 12 bytes (got 13)")
    expect(refusal(header(Command.SET_TENSOR, 304)).field).toBe("payload_size")
    expect(refusal(header(Command.GRAPH_COMPUTE, 19)).field).toBe("payload_size")
  })

  test("sizes of 2^53 and more", () => {
    const bytes = header(Command.SET_TENSOR, 0).fill(0xff, 1)
    expect(refusal(bytes).message).toBe(
      "SET_TENSOR: payload_size must be below 2^53 (got 18446744073709551615)",
    )
  })

  test("sizes above a limit, the default's and the caller's", () => {
    expect(refusal(header(Command.GRAPH_COMPUTE, 64 * 2 ** 20 + 1)).reason).toContain("limit")
    const maxPayloadBytes = { SET_TENSOR: 400, GRAPH_COMPUTE: 20 }
    expect(refusal(header(Command.SET_TENSOR, 401), { maxPayloadBytes }).reason).toContain("400")
    expect(refusal(header(Command.GRAPH_COMPUTE, 21), { maxPayloadBytes }).value).toBe(21)
    const decoder = new RequestDecoder(new Recorder(), { maxPayloadBytes })
    expect(decoder.push(header(Command.SET_TENSOR, 400))).toBe(9)
  })

  test("a decoder that has failed stays failed", () => {
    const decoder = new RequestDecoder(new Recorder())
    expect(() => decoder.push(header(99, 0))).toThrow(ProtocolError)
    expect(() => decoder.push(header(Command.DEVICE_COUNT, 0))).toThrow(ProtocolError)
    expect(() => decoder.finish()).toThrow(ProtocolError)
  })

  test("what a sink throws comes out of push as it is", () => {
    const own = new Error("enough")
    const recorder = new Recorder()
    recorder.onEvent = () => {
      recorder.onEvent = undefined
      throw own
    }
    const decoder = new RequestDecoder(recorder)
    expect(() => decoder.push(allRequests)).toThrow(own)
    expect(() => decoder.push(allRequests)).toThrow(own)
    expect(recorder.events.length).toBe(1)
  })

  test("an end inside a message, at every byte of every request", () => {
    for (const { bytes } of requestVectors) {
      for (let length = 0; length < bytes.length; length++) {
        const decoder = new RequestDecoder(new Recorder())
        decoder.push(bytes.subarray(0, length))
        if (length === 0) decoder.finish()
        else expect(() => decoder.finish()).toThrow(ProtocolError)
      }
    }
  })

  test("the end of a stream says how much was missing", () => {
    const decoder = new RequestDecoder(new Recorder())
    decoder.push(header(Command.SET_TENSOR, 400))
    decoder.push(new Uint8Array(310))
    expect(() => decoder.finish()).toThrow("SET_TENSOR: payload ends after 310 of 400 bytes")
  })
})

describe("responses", () => {
  const size = (bytes: number): Uint8Array => {
    const view = new DataView(new ArrayBuffer(8))
    view.setBigUint64(0, BigInt(bytes), true)
    return new Uint8Array(view.buffer)
  }

  test("one that nobody waits for is refused", () => {
    const decoder = new ResponseDecoder(new Recorder())
    expect(() => decoder.push(size(0))).toThrow("no request waits")
  })

  test("a command without a response cannot be waited for", () => {
    const decoder = new ResponseDecoder(new Recorder())
    expect(() => decoder.expect(Command.FREE_BUFFER)).toThrow(ProtocolError)
  })

  test("a wrong size is refused", () => {
    const decoder = new ResponseDecoder(new Recorder())
    decoder.expect(Command.DEVICE_COUNT)
    expect(() => decoder.push(size(5))).toThrow(
      "DEVICE_COUNT: payload_size must be 4 bytes (got 5)",
    )
  })

  test("GET_TENSOR must bring what was asked for", () => {
    const decoder = new ResponseDecoder(new Recorder())
    decoder.expect(Command.GET_TENSOR, 8)
    expect(() => decoder.push(size(9))).toThrow("8 bytes that were asked for")
  })

  test("GET_TENSOR of unknown size obeys the limit", () => {
    const options = { maxPayloadBytes: { GET_TENSOR: 100 } }
    const decoder = new ResponseDecoder(new Recorder(), options)
    decoder.expect(Command.GET_TENSOR)
    expect(() => decoder.push(size(101))).toThrow("limit of 100 bytes")
  })

  test("several at once go to their requests in order", () => {
    const recorder = new Recorder()
    const decoder = new ResponseDecoder(recorder)
    decoder.expect(Command.SET_TENSOR_HASH)
    decoder.expect(Command.GET_TENSOR, 2)
    expect(decoder.expectedCount).toBe(2)
    decoder.push(join([size(1), Uint8Array.of(1), size(2), Uint8Array.of(8, 9)]))
    expect(recorder.events).toEqual([
      { header: Command.SET_TENSOR_HASH, sizeBytes: 1 },
      { message: Command.SET_TENSOR_HASH, payload: Uint8Array.of(1) },
      { header: Command.GET_TENSOR, sizeBytes: 2 },
      { start: Command.GET_TENSOR, prefix: new Uint8Array(0), dataSizeBytes: 2 },
      { end: Command.GET_TENSOR, data: Uint8Array.of(8, 9) },
    ])
  })
})

describe("any bytes", () => {
  const chunks = fc.array(fc.uint8Array({ maxLength: 400 }), { maxLength: 8 })
  const survives = (decoder: RequestDecoder | ResponseDecoder, parts: readonly Uint8Array[]) => {
    try {
      for (const part of parts) decoder.push(part)
      decoder.finish()
    } catch (error) {
      expect(error).toBeInstanceOf(ProtocolError)
    }
  }

  test("random chunks only ever throw ProtocolError", () => {
    fc.assert(
      fc.property(chunks, fc.nat(22), (parts, first) => {
        const likely = parts.map((part) => Uint8Array.of(first, ...part))
        survives(new RequestDecoder(new Recorder()), likely)
        survives(responseDecoder(new Recorder()), parts)
      }),
      { numRuns: 1000 },
    )
  })

  test("mutated vectors only ever throw ProtocolError", () => {
    const messages = vectors.filter((vector) => vector.direction === "request")
    const flips = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 5 })
    fc.assert(
      fc.property(
        fc.constantFrom(...messages),
        flips,
        fc.integer({ min: 1, max: 500 }),
        (vector, flips, step) => {
          const bytes = vector.bytes.slice()
          // Half of the changes go to the header, where they matter most.
          flips.forEach(([at, value], n) => {
            bytes[at % (n % 2 === 0 ? 9 : bytes.length)] = value
          })
          const parts = Array.from({ length: Math.ceil(bytes.length / step) }, (_, n) =>
            bytes.subarray(n * step, (n + 1) * step),
          )
          survives(new RequestDecoder(new Recorder(), { spec: specOf(vector) }), parts)
        },
      ),
      { numRuns: 2000 },
    )
  })
})

describe("checkRequestHeader", () => {
  const check = (bytes: Uint8Array) => checkRequestHeader(new DataView(bytes.buffer))

  test("says what to read before acting", () => {
    expect(check(header(Command.SET_TENSOR, 5000))).toBe(305)
    expect(check(header(Command.GRAPH_COMPUTE, 5000))).toBe(5000)
    expect(check(header(Command.DEVICE_COUNT, 0))).toBe(0)
    expect(check(header(Command.GET_ALLOC_SIZE, 3260))).toBe(3260)
  })

  test("refuses what the decoder refuses", () => {
    expect(() => check(header(Command.HELLO, 0))).toThrow(ProtocolError)
    expect(() => check(header(23, 0))).toThrow(ProtocolError)
    expect(() => check(new Uint8Array(8))).toThrow(ProtocolError)
    expect(() => check(header(Command.GRAPH_COMPUTE, 2 ** 40))).toThrow(ProtocolError)
  })
})
