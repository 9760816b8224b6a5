import { REQUEST_HEADER_SIZE_BYTES, RESPONSE_HEADER_SIZE_BYTES } from "./codec/header.ts"
import type { PayloadCodec } from "./codec/payload.ts"
import { readU64AsNumber } from "./codec/u64.ts"
import { describeCommand, type MessageId, type MessageName } from "./commands.ts"
import { ProtocolError } from "./errors.ts"
import { checkPayloadSize, requestCodec, responseCodec } from "./messages.ts"
import { newest } from "./versions/index.ts"
import type { ProtocolSpec } from "./versions/spec.ts"

/*
 * Bytes from a socket, in whatever pieces they come, to messages. Upstream takes whatever size a header says and
 * allocates it; here a header is checked against the command and the limits before anything is stored, storage grows
 * with what has really arrived, and tensor data is handed on without being stored at all.
 *
 * Everything handed to a sink lies in the pushed chunk or in memory the decoder uses again: valid during the call only.
 */

/** Largest payload in bytes by command; commands of fixed size need none. */
export type PayloadLimits = { readonly [N in MessageName]?: number }

/** GRAPH_COMPUTE: 64 MiB, some 200,000 tensors. Tensor data has no limit of its own, as it is never stored. */
export const DEFAULT_PAYLOAD_LIMITS: PayloadLimits = { GRAPH_COMPUTE: 64 * 1024 * 1024 }

/** What a decoder tells; calls come while `push` runs, and what they throw comes out of `push`. */
export interface FrameSink {
  /** The header is there and acceptable; no payload byte has been looked at. */
  header?(command: MessageId, payloadSizeBytes: number): void
  /** A whole payload: every message but those with tensor data. */
  message(command: MessageId, payload: Uint8Array): void
  /** A payload with tensor data begins: what comes before the data (for SET_TENSOR, `SetTensorPrefix`), and its size. */
  streamStart(command: MessageId, prefix: Uint8Array, dataSizeBytes: number): void
  /** Some of the data, in order; `dataOffsetBytes` is where in the data. Never empty. */
  streamData(command: MessageId, chunk: Uint8Array, dataOffsetBytes: number): void
  /** All data has been told. */
  streamEnd(command: MessageId): void
}

export interface FrameOptions {
  /** Default: the newest version. */
  readonly spec?: ProtocolSpec
  /** Entries replace those of `DEFAULT_PAYLOAD_LIMITS`. */
  readonly maxPayloadBytes?: PayloadLimits
}

const checkLimit = (command: number, sizeBytes: number, limits: PayloadLimits): void => {
  const limit = limits[describeCommand(command) as MessageName]
  if (limit !== undefined && sizeBytes > limit) {
    throw new ProtocolError({
      command: describeCommand(command),
      field: "payload_size",
      reason: `exceeds the limit of ${limit} bytes`,
      value: sizeBytes,
    })
  }
}

const checkSafe = (command: number, view: DataView, offset: number): number => {
  const sizeBytes = readU64AsNumber(view, offset)
  if (sizeBytes >= 0) return sizeBytes
  throw new ProtocolError({
    command: describeCommand(command),
    field: "payload_size",
    reason: "must be below 2^53",
    value: view.getBigUint64(offset, true),
  })
}

const collectSize = (codec: PayloadCodec<unknown>, sizeBytes: number): number =>
  codec.streamFrom === undefined ? sizeBytes : codec.streamFrom

/**
 * For a reader that pulls (a blocking `recv` loop): checks a request header of 9 bytes at `offset` and says how many
 * payload bytes to read before acting: all of them, or, for SET_TENSOR, those before its data. Allocates nothing.
 *
 * Throws `ProtocolError` for an unknown command, a wrong size, a size above its limit or of 2^53 or more.
 */
export const checkRequestHeader = (
  view: DataView,
  offset = 0,
  limits: PayloadLimits = DEFAULT_PAYLOAD_LIMITS,
  spec: ProtocolSpec = newest,
): number => {
  if (offset < 0 || offset + REQUEST_HEADER_SIZE_BYTES > view.byteLength) {
    throw new ProtocolError({ field: "header", reason: `needs 9 bytes at offset ${offset}` })
  }
  const command = view.getUint8(offset)
  const codec = requestCodec(command, spec)
  const sizeBytes = checkSafe(command, view, offset + 1)
  checkPayloadSize(command, codec, sizeBytes)
  checkLimit(command, sizeBytes, limits)
  return collectSize(codec, sizeBytes)
}

/** A header that was accepted. */
interface Opened {
  readonly command: MessageId
  readonly sizeBytes: number
  /** Payload bytes to gather before the sink hears of them. */
  readonly gatherBytes: number
  readonly streams: boolean
}

const NO_FRAME: Opened = { command: 0, sizeBytes: 0, gatherBytes: 0, streams: false }

/** First allocation for a payload that comes in pieces; it doubles as bytes arrive. */
const INITIAL_GATHER_BYTES = 64 * 1024

/** Memory for gathering is kept between messages up to this size. */
const KEPT_GATHER_BYTES = 1024 * 1024

/** What both directions share; use `RequestDecoder` or `ResponseDecoder`. */
export class FrameDecoder {
  readonly #sink: FrameSink
  readonly #open: (header: DataView) => Opened
  readonly #header: Uint8Array
  readonly #headerView: DataView
  #stage: "header" | "gather" | "stream" = "header"
  #frame: Opened = NO_FRAME
  /** Bytes of the current stage that have arrived. */
  #filled = 0
  #gathered = new Uint8Array(0)
  #paused = false
  #failure: { readonly error: unknown } | undefined

  constructor(headerSizeBytes: number, open: (header: DataView) => Opened, sink: FrameSink) {
    this.#header = new Uint8Array(headerSizeBytes)
    this.#headerView = new DataView(this.#header.buffer)
    this.#open = open
    this.#sink = sink
  }

  /**
   * Takes bytes in and calls the sink for all they complete. Returns how many were taken: all, unless the sink called
   * `pause`. Throws `ProtocolError` when the bytes cannot be a message, or whatever the sink throws; the decoder is done
   * then and throws the same again.
   */
  push(chunk: Uint8Array): number {
    if (this.#failure !== undefined) throw this.#failure.error
    this.#paused = false
    try {
      let at = 0
      for (;;) {
        const taken = this.#advance(chunk, at)
        if (taken < 0) return chunk.length
        at += taken
        if (this.#paused) return at
      }
    } catch (error) {
      this.#failure = { error }
      throw error
    }
  }

  /** Called by the sink: makes the running `push` return right after this call; the next `push` goes on. */
  pause(): void {
    this.#paused = true
  }

  /** Whether no message has begun: the only place where a connection may end. */
  get idle(): boolean {
    return this.#stage === "header" && this.#filled === 0
  }

  /** Says that no more bytes come. Throws `ProtocolError` when a message is incomplete. */
  finish(): void {
    if (this.#failure !== undefined) throw this.#failure.error
    if (this.idle) return
    const { command, sizeBytes, gatherBytes } = this.#frame
    if (this.#stage === "header") {
      throw new ProtocolError({
        field: "header",
        reason: `ends after ${this.#filled} of ${this.#header.length} bytes`,
      })
    }
    const arrived = this.#stage === "gather" ? this.#filled : gatherBytes + this.#filled
    throw new ProtocolError({
      command: describeCommand(command),
      field: "payload",
      reason: `ends after ${arrived} of ${sizeBytes} bytes`,
    })
  }

  /** One step; the number of bytes it took, or -1 when it can do nothing without more. */
  #advance(chunk: Uint8Array, at: number): number {
    switch (this.#stage) {
      case "header":
        return this.#advanceHeader(chunk, at)
      case "gather":
        return this.#advanceGather(chunk, at)
      case "stream":
        return this.#advanceStream(chunk, at)
    }
  }

  #advanceHeader(chunk: Uint8Array, at: number): number {
    if (at === chunk.length) return -1
    const size = Math.min(this.#header.length - this.#filled, chunk.length - at)
    for (let index = 0; index < size; index++) {
      this.#header[this.#filled + index] = chunk[at + index]!
    }
    this.#filled += size
    if (this.#filled === this.#header.length) {
      this.#frame = this.#open(this.#headerView)
      this.#enter("gather")
      this.#sink.header?.(this.#frame.command, this.#frame.sizeBytes)
    }
    return size
  }

  #advanceGather(chunk: Uint8Array, at: number): number {
    const { gatherBytes } = this.#frame
    const size = Math.min(gatherBytes - this.#filled, chunk.length - at)
    if (size === gatherBytes) {
      this.#gatherDone(chunk.subarray(at, at + size))
      return size
    }
    if (size === 0) return -1
    this.#reserve(this.#filled + size)
    this.#gathered.set(chunk.subarray(at, at + size), this.#filled)
    this.#filled += size
    if (this.#filled === gatherBytes) {
      const payload = this.#gathered.subarray(0, gatherBytes)
      if (this.#gathered.length > KEPT_GATHER_BYTES) this.#gathered = new Uint8Array(0)
      this.#gatherDone(payload)
    }
    return size
  }

  #advanceStream(chunk: Uint8Array, at: number): number {
    const { command, sizeBytes, gatherBytes } = this.#frame
    const dataSizeBytes = sizeBytes - gatherBytes
    const size = Math.min(dataSizeBytes - this.#filled, chunk.length - at)
    if (this.#filled === dataSizeBytes) {
      this.#enter("header")
      this.#sink.streamEnd(command)
      return 0
    }
    if (size === 0) return -1
    const dataOffsetBytes = this.#filled
    this.#filled += size
    this.#sink.streamData(command, chunk.subarray(at, at + size), dataOffsetBytes)
    return size
  }

  // The stage changes before the sink is called, so that a pause inside the call goes on at the right place.
  #gatherDone(payload: Uint8Array): void {
    const { command, sizeBytes, gatherBytes, streams } = this.#frame
    if (streams) {
      this.#enter("stream")
      this.#sink.streamStart(command, payload, sizeBytes - gatherBytes)
    } else {
      this.#enter("header")
      this.#sink.message(command, payload)
    }
  }

  #enter(stage: "header" | "gather" | "stream"): void {
    this.#stage = stage
    this.#filled = 0
  }

  #reserve(sizeBytes: number): void {
    if (this.#gathered.length >= sizeBytes) return
    const doubled = Math.max(sizeBytes, this.#gathered.length * 2, INITIAL_GATHER_BYTES)
    const larger = new Uint8Array(Math.min(doubled, Math.max(this.#frame.gatherBytes, sizeBytes)))
    larger.set(this.#gathered.subarray(0, this.#filled))
    this.#gathered = larger
  }
}

/** The server's side of a connection: bytes to requests. */
export class RequestDecoder extends FrameDecoder {
  constructor(sink: FrameSink, options: FrameOptions = {}) {
    const spec = options.spec ?? newest
    const limits = { ...DEFAULT_PAYLOAD_LIMITS, ...options.maxPayloadBytes }
    const open = (header: DataView): Opened => {
      const gatherBytes = checkRequestHeader(header, 0, limits, spec)
      const command = header.getUint8(0) as MessageId
      const streams = requestCodec(command, spec).streamFrom !== undefined
      return { command, sizeBytes: readU64AsNumber(header, 1), gatherBytes, streams }
    }
    super(REQUEST_HEADER_SIZE_BYTES, open, sink)
  }
}

interface Expected {
  readonly command: MessageId
  readonly codec: PayloadCodec<unknown>
  readonly payloadSizeBytes: number | undefined
}

/** The client's side of a connection: bytes to responses, each for the oldest request that still waits for one. */
export class ResponseDecoder extends FrameDecoder {
  readonly #spec: ProtocolSpec
  readonly #expected: Expected[]

  constructor(sink: FrameSink, options: FrameOptions = {}) {
    const limits = { ...DEFAULT_PAYLOAD_LIMITS, ...options.maxPayloadBytes }
    const expected: Expected[] = []
    super(RESPONSE_HEADER_SIZE_BYTES, (header) => openResponse(header, expected, limits), sink)
    this.#spec = options.spec ?? newest
    this.#expected = expected
  }

  /**
   * Says that a request was sent whose response will come, in order. `payloadSizeBytes` for GET_TENSOR: the size that was
   * asked for, and the only one then accepted. Throws `ProtocolError` for a command without a response.
   */
  expect(command: MessageId, payloadSizeBytes?: number): void {
    const codec = responseCodec(command, this.#spec)
    this.#expected.push({ command, codec, payloadSizeBytes })
  }

  /** Responses that were announced by `expect` and have not begun. */
  get expectedCount(): number {
    return this.#expected.length
  }
}

const openResponse = (header: DataView, queue: Expected[], limits: PayloadLimits): Opened => {
  const expected = queue.shift()
  if (expected === undefined) {
    throw new ProtocolError({ field: "response", reason: "came although no request waits for one" })
  }
  const { command, codec, payloadSizeBytes } = expected
  const sizeBytes = checkSafe(command, header, 0)
  checkPayloadSize(command, codec, sizeBytes)
  if (payloadSizeBytes !== undefined && sizeBytes !== payloadSizeBytes) {
    throw new ProtocolError({
      command: describeCommand(command),
      field: "payload_size",
      reason: `must be the ${payloadSizeBytes} bytes that were asked for`,
      value: sizeBytes,
    })
  }
  checkLimit(command, sizeBytes, limits)
  const streams = codec.streamFrom !== undefined
  return { command, sizeBytes, gatherBytes: collectSize(codec, sizeBytes), streams }
}
