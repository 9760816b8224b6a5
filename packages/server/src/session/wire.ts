import { ptr } from "bun:ffi"
import { asPointer, io, ioErrorText } from "@ggml-rpc/native/bindings"
import {
  Command,
  commandSpec,
  DEFAULT_PAYLOAD_LIMITS,
  describeCommand,
  ProtocolError,
  readU64AsNumber,
  SetTensorPrefix,
} from "@ggml-rpc/protocol"

/** The client is gone: its end was closed or reset, or its host does not answer any more. */
export class ClientGone extends Error {
  readonly _tag = "ClientGone"
}

/** Room for whole requests of every command but those whose size the client chooses. */
const INBOX_BYTES = 128 * 1024
const OUTBOX_BYTES = 64 * 1024

/** u8 command, u64 payload size. */
const HEADER_BYTES = 9

const COMMAND_COUNT = 18

/** By command: payload bytes, or what comes before the data of SET_TENSOR; -1: GRAPH_COMPUTE. */
const fixedBytes = new Int32Array(COMMAND_COUNT)
for (let command = 0; command < COMMAND_COUNT; command++) {
  const codec = commandSpec(command)!.request
  fixedBytes[command] = codec.minSizeBytes
}
fixedBytes[Command.GRAPH_COMPUTE] = -1

const graphLimitBytes = DEFAULT_PAYLOAD_LIMITS.GRAPH_COMPUTE!

/**
 * One client's socket, read and written by blocking calls. Requests are parsed where they were received;
 * answers gather in the outbox and leave together, at the latest before the next wait for the client.
 *
 * A class of fields rather than a queue of objects: this runs several times per token.
 */
export class Wire {
  readonly #io = io()
  #fd = -1
  readonly #inbox = new Uint8Array(INBOX_BYTES)
  readonly #inboxAt: number
  #read = 0
  #filled = 0
  readonly #outbox = new Uint8Array(OUTBOX_BYTES)
  readonly #outboxAt: number
  readonly #out: DataView
  #pending = 0

  /** View of the inbox; `payload` and `tail` are offsets in it. */
  readonly view: DataView
  command = 0
  /** The announced payload size. */
  sizeBytes = 0
  /** Where the payload starts: all of it, or for SET_TENSOR what comes before the data. */
  payload = 0

  constructor() {
    this.view = new DataView(this.#inbox.buffer)
    this.#out = new DataView(this.#outbox.buffer)
    this.#inboxAt = ptr(this.#inbox) as number
    this.#outboxAt = ptr(this.#outbox) as number
  }

  open(fd: number): void {
    this.#fd = fd
    this.#read = 0
    this.#filled = 0
    this.#pending = 0
  }

  /**
   * Waits for the next request: its header is checked and its fixed part is in the inbox.
   *
   * @throws {ClientGone} @throws {ProtocolError}
   */
  next(): void {
    this.#ensure(HEADER_BYTES)
    const view = this.view
    const command = view.getUint8(this.#read)
    this.command = command
    if (command >= COMMAND_COUNT) {
      throw new ProtocolError({ field: "command", reason: "is unknown", value: command })
    }
    const sizeBytes = readU64AsNumber(view, this.#read + 1)
    this.sizeBytes = sizeBytes
    const fixed = fixedBytes[command]!
    if (fixed < 0 ? sizeBytes < 0 || sizeBytes > graphLimitBytes : sizeBytes !== fixed) {
      if (command !== Command.SET_TENSOR || sizeBytes < fixed) this.#refuseSize(fixed)
    }
    if (fixed > 0) this.#ensure(HEADER_BYTES + fixed)
    this.payload = this.#read + HEADER_BYTES
    this.#read = fixed < 0 ? this.payload : this.payload + fixed
  }

  #refuseSize(fixed: number): never {
    const { command, sizeBytes } = this
    const reason =
      fixed < 0
        ? `exceeds the limit of ${graphLimitBytes} bytes`
        : command === Command.SET_TENSOR
          ? `must be at least ${SetTensorPrefix.size} and below 2^53`
          : `must be ${fixed}`
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
      this.#read = 0
      this.#filled = 0
    } else if (this.#read + size > INBOX_BYTES) {
      this.#inbox.copyWithin(0, this.#read, this.#filled)
      this.#filled -= this.#read
      this.#read = 0
    }
    while (this.#filled - this.#read < size) {
      const got = this.#io.io_recv(
        this.#fd,
        asPointer(this.#inboxAt + this.#filled),
        INBOX_BYTES - this.#filled,
      )
      if (got <= 0) throw new ClientGone(got === 0 ? "closed" : ioErrorText(got))
      this.#filled += got
    }
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
    const got = this.#io.io_recv_exact(this.#fd, asPointer(address), size)
    if (got !== size) throw new ClientGone(got >= 0 ? "closed" : ioErrorText(got))
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

  /** Native address of a payload offset of the inbox. */
  addressOf(offset: number): number {
    return this.#inboxAt + offset
  }

  // ---- answers -----------------------------------------------------------------------------------

  /** Begins an answer of `size` bytes (below the outbox's size); returns where in `out` they belong. */
  answer(size: number): number {
    if (this.#pending + 8 + size > OUTBOX_BYTES) this.flush()
    const at = this.#pending
    this.#out.setUint32(at, size, true)
    this.#out.setUint32(at + 4, 0, true)
    this.#pending = at + 8 + size
    return at + 8
  }

  get out(): DataView {
    return this.#out
  }

  outAddress(offset: number): number {
    return this.#outboxAt + offset
  }

  /** Sends an answer whose `size` bytes lie at a native address, after all pending ones, in one call. */
  answerFrom(address: number, size: number): void {
    if (this.#pending + 8 > OUTBOX_BYTES) this.flush()
    const at = this.#pending
    this.#out.setUint32(at, size >>> 0, true)
    this.#out.setUint32(at + 4, Math.floor(size / 0x1_0000_0000), true)
    this.#pending = 0
    this.#check(
      this.#io.io_send2(this.#fd, asPointer(this.#outboxAt), at + 8, asPointer(address), size),
    )
  }

  /** Only the size of an answer; `sendRaw` sends its bytes in pieces. */
  answerHeader(size: number): void {
    const at = this.answer(0)
    this.#out.setUint32(at - 8, size >>> 0, true)
    this.#out.setUint32(at - 4, Math.floor(size / 0x1_0000_0000), true)
    this.flush()
  }

  sendRaw(address: number, size: number): void {
    this.#check(this.#io.io_send(this.#fd, asPointer(address), size))
  }

  /** Sends what is pending. */
  flush(): void {
    const size = this.#pending
    if (size === 0) return
    this.#pending = 0
    this.#check(this.#io.io_send(this.#fd, asPointer(this.#outboxAt), size))
  }

  #check(result: number): void {
    if (result < 0) throw new ClientGone(ioErrorText(result))
  }
}
