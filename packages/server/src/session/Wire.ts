import { ptr } from "bun:ffi"
import { asPointer, errno, io, ioErrorText } from "@ggml-rpc/native/bindings"
import {
  describeCommand,
  joinU64,
  type LostPeer,
  ProtocolError,
  REQUEST_HEADER_SIZE_BYTES,
  RESPONSE_HEADER_SIZE_BYTES,
  writeLostPeer,
  writeU64FromNumber,
} from "@ggml-rpc/protocol"
import { ClientGone } from "./errors.ts"
import type { Words } from "./graph/tensorWords.ts"
import { helloPayloadBytes } from "./hello.ts"
import { SessionStats } from "./SessionStats.ts"
import { greeting, type RequestSizes } from "./spoken.ts"

const describeEnd = (result: number): string =>
  result === 0
    ? "closed"
    : result === errno.again
      ? "silent for longer than a client may be (--idle-timeout)"
      : ioErrorText(result)

const noBytes = new Uint8Array(0)

/** The current request's fixed part is moved to the start of the inbox: that is where it is aligned. */
export const REQUEST_BYTES = 8192

/** What is received lies behind. */
const INBOX_BYTES = REQUEST_BYTES + 128 * 1024
const OUTBOX_BYTES = 64 * 1024

/** u8 command, u64 payload size. */
const HEADER_BYTES = REQUEST_HEADER_SIZE_BYTES

/** u64 payload size. */
const ANSWER_HEADER_BYTES = RESPONSE_HEADER_SIZE_BYTES

/**
 * One client's socket, read and written by blocking calls. Requests are parsed where they were received;
 * answers gather in the outbox and leave together, at the latest before the next wait for the client.
 *
 * A class of fields rather than a queue of objects: this runs several times per token.
 */
export class Wire {
  readonly stats = new SessionStats()
  readonly #io = io()
  #fd = -1
  readonly #inbox = new Uint8Array(INBOX_BYTES)
  readonly #inboxAt: number
  /** Received by the front process, and not yet in the inbox from `#earlyAt` on. */
  #early: Uint8Array = noBytes
  #earlyAt = 0
  #read = REQUEST_BYTES
  #filled = REQUEST_BYTES
  readonly #outbox = new Uint8Array(OUTBOX_BYTES)
  readonly #outboxAt: number
  readonly #out: DataView
  #pending = 0

  /** The current request's payload, or what comes before its tensor data; nothing of a graph. */
  readonly view: DataView
  /** The same as words. */
  readonly words: Words
  /** The same for native calls. */
  readonly requestAddress: number
  command = 0
  /** The announced payload size. */
  sizeBytes = 0
  /** Which commands there are, and their sizes. */
  spoken: RequestSizes

  /** The client's socket. */
  get descriptor(): number {
    return this.#fd
  }

  constructor(spoken: RequestSizes) {
    this.spoken = spoken
    this.view = new DataView(this.#inbox.buffer, 0, REQUEST_BYTES)
    this.words = new Uint32Array(this.#inbox.buffer, 0, REQUEST_BYTES / 4)
    this.#out = new DataView(this.#outbox.buffer)
    this.#inboxAt = ptr(this.#inbox) as number
    this.requestAddress = this.#inboxAt
    this.#outboxAt = ptr(this.#outbox) as number
  }

  /**
   * Starts a connection, which has to begin with HELLO; returns that one's payload bytes. `early` are bytes that were
   * read of it before; they must not change until they are used up.
   */
  open(fd: number, early: Uint8Array): number {
    this.#fd = fd
    this.#early = early
    this.#earlyAt = 0
    this.#read = REQUEST_BYTES
    this.#filled = REQUEST_BYTES
    this.#pending = 0
    this.spoken = greeting
    this.#ensure(1)
    helloPayloadBytes(this.#inbox.subarray(this.#read, this.#filled))
    this.#ensure(HEADER_BYTES)
    const sizeBytes = helloPayloadBytes(this.#inbox.subarray(this.#read, this.#filled))!
    this.next()
    this.#ensure(sizeBytes)
    this.skip(sizeBytes)
    return sizeBytes
  }

  /**
   * Waits for the next request: its header is checked and its fixed part is in `view` and `words`, until the
   * next call.
   *
   * @throws {ClientGone} @throws {ProtocolError}
   */
  next(): void {
    this.#ensure(HEADER_BYTES)
    const inbox = this.#inbox
    const at = this.#read
    const command = inbox[at]!
    this.command = command
    const { spoken } = this
    const maxBytes = spoken.maxBytes[command]!
    if (maxBytes < 0) {
      throw new ProtocolError({ field: "command", reason: "is unknown", value: command })
    }
    const low =
      inbox[at + 1]! | (inbox[at + 2]! << 8) | (inbox[at + 3]! << 16) | (inbox[at + 4]! << 24)
    const high =
      inbox[at + 5]! | (inbox[at + 6]! << 8) | (inbox[at + 7]! << 16) | (inbox[at + 8]! << 24)
    const sizeBytes = joinU64(low >>> 0, high >>> 0)
    this.sizeBytes = sizeBytes
    if (sizeBytes < spoken.minBytes[command]! || sizeBytes > maxBytes) this.#refuseSize()
    this.stats.receivedBytes += HEADER_BYTES + sizeBytes
    this.#read = at + HEADER_BYTES
    const fixed = spoken.fixedBytes[command]!
    if (fixed > 0) {
      this.#ensure(fixed)
      inbox.copyWithin(0, this.#read, this.#read + fixed)
      this.#read += fixed
    }
  }

  /** Whether the client, which has all its answers, asks for nothing for so long. */
  isSilent(timeoutMs: number): boolean {
    if (this.#filled > this.#read || this.#earlyAt < this.#early.length) return false
    this.flush()
    return this.#io.io_wait_readable(this.#fd, timeoutMs) === 0
  }

  /** Overwrites what the client sent and was answered. */
  forget(): void {
    this.#early = noBytes
    this.#pending = 0
    this.#inbox.fill(0)
    this.#outbox.fill(0)
  }

  #refuseSize(): never {
    const { command, sizeBytes, spoken } = this
    const min = spoken.minBytes[command]!
    const max = spoken.maxBytes[command]!
    const reason =
      min === max
        ? `must be ${min}`
        : max === Number.MAX_SAFE_INTEGER
          ? `must be at least ${min} and below 2^53`
          : sizeBytes >= 0 && sizeBytes < min
            ? `must be at least ${min}`
            : `exceeds the limit of ${max} bytes`
    const value = sizeBytes < 0 ? "2^53 or more" : sizeBytes
    throw new ProtocolError({
      command: describeCommand(command),
      field: "payload_size",
      reason,
      value,
    })
  }

  /** Makes sure that `size` bytes from `#read` on are there. */
  #ensure(size: number): void {
    if (this.#filled - this.#read >= size) return
    this.flush()
    if (this.#read === this.#filled) {
      this.#read = REQUEST_BYTES
      this.#filled = REQUEST_BYTES
    } else if (this.#read + size > INBOX_BYTES) {
      this.#inbox.copyWithin(REQUEST_BYTES, this.#read, this.#filled)
      this.#filled -= this.#read - REQUEST_BYTES
      this.#read = REQUEST_BYTES
    }
    while (this.#filled - this.#read < size) {
      const at = this.#inboxAt + this.#filled
      const room = INBOX_BYTES - this.#filled
      const early = this.#takeEarly(at, room)
      const got = early > 0 ? early : this.#io.io_recv(this.#fd, asPointer(at), room)
      if (got <= 0) throw new ClientGone(describeEnd(got))
      this.#filled += got
    }
  }

  /** Moves up to `size` early bytes to a native address; returns how many. */
  #takeEarly(address: number, size: number): number {
    const part = Math.min(size, this.#early.length - this.#earlyAt)
    if (part === 0) return 0
    const from = asPointer((ptr(this.#early) as number) + this.#earlyAt)
    this.#io.io_copy(asPointer(address), 0, from, part)
    this.#earlyAt += part
    if (this.#earlyAt === this.#early.length) {
      this.#early = noBytes
      this.#earlyAt = 0
    }
    return part
  }

  /** How many of the next `size` payload bytes are in the inbox. */
  available(size: number): number {
    return Math.min(size, this.#filled - this.#read)
  }

  /** Address of the next unread payload bytes. */
  get tailAddress(): number {
    return this.#inboxAt + this.#read
  }

  /** Marks `size` bytes of the inbox as read. */
  skip(size: number): void {
    this.#read += size
  }

  /** Receives exactly `size` bytes, none of which are in the inbox, to a native address. */
  receive(address: number, size: number): void {
    if (size === 0) return
    this.flush()
    const early = this.#takeEarly(address, size)
    const rest = size - early
    if (rest === 0) return
    const got = this.#io.io_recv_exact(this.#fd, asPointer(address + early), rest)
    if (got !== rest) throw new ClientGone(got >= 0 ? "ended in mid-request" : describeEnd(got))
  }

  /** Copies or receives the next `size` payload bytes to a native address. */
  take(address: number, size: number): void {
    const there = this.available(size)
    if (there > 0) {
      this.#io.io_copy(asPointer(address), 0, asPointer(this.tailAddress), there)
      this.skip(there)
    }
    this.receive(address + there, size - there)
  }

  // ---- answers -----------------------------------------------------------------------------------

  /** Begins an answer of `size` bytes (below the outbox's size); returns where in `out` they belong. */
  answer(size: number): number {
    if (this.#pending + ANSWER_HEADER_BYTES + size > OUTBOX_BYTES) this.flush()
    const at = this.#pending
    this.#out.setUint32(at, size, true)
    this.#out.setUint32(at + 4, 0, true)
    const start = at + ANSWER_HEADER_BYTES
    this.#pending = start + size
    return start
  }

  get out(): DataView {
    return this.#out
  }

  outAddress(offset: number): number {
    return this.#outboxAt + offset
  }

  /** Sends an answer whose `size` bytes lie at a native address, after all pending ones, in one call. */
  answerFrom(address: number, size: number): void {
    if (this.#pending + ANSWER_HEADER_BYTES > OUTBOX_BYTES) this.flush()
    const at = this.#pending
    writeU64FromNumber(this.#out, at, size)
    this.#pending = 0
    const header = at + ANSWER_HEADER_BYTES
    this.stats.sentBytes += header + size
    this.#check(
      this.#io.io_send2(this.#fd, asPointer(this.#outboxAt), header, asPointer(address), size),
    )
  }

  /** Only the size of an answer; `sendRaw` sends its bytes in pieces. */
  answerHeader(size: number): void {
    const at = this.answer(0) - ANSWER_HEADER_BYTES
    writeU64FromNumber(this.#out, at, size)
    this.flush()
  }

  sendRaw(address: number, size: number): void {
    this.stats.sentBytes += size
    this.#check(this.#io.io_send(this.#fd, asPointer(address), size))
  }

  /** Says instead of another answer which server has failed this one; see `writeLostPeer`. */
  lastWord(lost: LostPeer): void {
    writeLostPeer(this.#out, this.answer(0) - ANSWER_HEADER_BYTES, lost)
  }

  /** Sends what is pending. */
  flush(): void {
    const size = this.#pending
    if (size === 0) return
    this.#pending = 0
    this.stats.sentBytes += size
    this.#check(this.#io.io_send(this.#fd, asPointer(this.#outboxAt), size))
  }

  #check(result: number): void {
    if (result < 0) throw new ClientGone(describeEnd(result))
  }
}
