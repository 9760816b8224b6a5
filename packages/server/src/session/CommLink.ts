import { ptr } from "bun:ffi"
import { type Address, asPointer, cString, errno, io, ioErrorText } from "@ggml-rpc/native/bindings"
import { CONN_CAPS_SIZE_BYTES } from "@ggml-rpc/protocol"
import { LinkError } from "./errors.ts"

/** How long the other server of a link by upstream's COMM_INIT may take. */
export interface CommLimits {
  /** To listen, or to dial, and again to say the first bytes. */
  readonly linkMs: number
  /** To send or take the next bytes of a partial result, for which it may have to compute first. */
  readonly silenceMs: number
}

/** Between two tries to dial: the other server may not listen yet. As upstream's. */
const INTERVAL_MS = 50

/** See `io_tune_socket`. */
const KEEPALIVE_S = 10

const ADDRESS_BYTES = 64

/**
 * The TCP connection to one other server, on which the two exchange partial results: raw bytes, each side as many as the
 * other; ggml-rpc.cpp `rpc_server::comm_init` (8.0.0). No wait on it is without a limit.
 */
export class CommLink {
  readonly #fd: number
  readonly #limits: CommLimits
  /** Address of the other server. */
  readonly peer: string
  /** The one that listened sends before it receives, so that the two never both wait. */
  readonly sendsFirst: boolean
  #received = new Uint8Array(0)

  private constructor(fd: number, sendsFirst: boolean, limits: CommLimits) {
    this.#fd = fd
    this.sendsFirst = sendsFirst
    this.#limits = limits
    const text = new Uint8Array(ADDRESS_BYTES)
    io().io_peer_address(fd, text, text.length)
    this.peer = new TextDecoder().decode(text.subarray(0, text.indexOf(0)))
    io().io_tune_socket(fd, KEEPALIVE_S)
    io().io_watch_server(fd)
  }

  /**
   * Waits for the other server on a port of the address by which the client of `clientFd` reaches this one.
   *
   * @throws {LinkError}
   */
  static listen(clientFd: number, port: number, limits: CommLimits): CommLink {
    const listener = io().io_listen_beside(clientFd, port)
    if (listener < 0) throw new LinkError(`cannot listen on port ${port}: ${ioErrorText(listener)}`)
    const fd = io().io_accept(listener, limits.linkMs)
    io().io_close(listener)
    if (fd < 0) throw new LinkError(`nobody came to port ${port}: ${ioErrorText(fd)}`)
    return new CommLink(fd, true, limits).#greet()
  }

  /**
   * Connects to the other server, which may not listen yet.
   *
   * @throws {LinkError}
   */
  static dial(host: string, port: number, limits: CommLimits): CommLink {
    const name = cString(host)
    const deadline = performance.now() + limits.linkMs
    for (;;) {
      const fd = io().io_connect(name, port, Math.max(1, deadline - performance.now()))
      if (fd >= 0) return new CommLink(fd, false, limits).#greet()
      if (performance.now() + INTERVAL_MS >= deadline) {
        throw new LinkError(`${host}:${port} cannot be reached: ${ioErrorText(fd)}`)
      }
      Bun.sleepSync(INTERVAL_MS)
    }
  }

  /** Both say that they have no RDMA, the one that dialled first. */
  #greet(): this {
    const theirs = new Uint8Array(CONN_CAPS_SIZE_BYTES)
    const ours = new Uint8Array(CONN_CAPS_SIZE_BYTES)
    const { linkMs, silenceMs } = this.#limits
    try {
      this.#limit(linkMs)
      if (!this.sendsFirst) this.send(ptr(ours) as number, ours.length)
      this.receive(ptr(theirs) as number, theirs.length)
      if (this.sendsFirst) this.send(ptr(ours) as number, ours.length)
      this.#limit(silenceMs)
    } catch (error) {
      this.close()
      throw error
    }
    return this
  }

  #limit(ms: number): void {
    io().io_set_receive_timeout(this.#fd, ms)
    io().io_set_send_timeout(this.#fd, ms)
  }

  /** @throws {LinkError} */
  send(address: Address, sizeBytes: number): void {
    const sent = io().io_send(this.#fd, asPointer(address), sizeBytes)
    if (sent < 0) this.#fail(sent)
  }

  /** @throws {LinkError} */
  receive(address: Address, sizeBytes: number): void {
    const got = io().io_recv_exact(this.#fd, asPointer(address), sizeBytes)
    if (got !== sizeBytes) this.#fail(got)
  }

  #fail(result: number): never {
    const what =
      result >= 0
        ? "closed the link"
        : result === errno.again
          ? "did not answer in time"
          : `is not reached any more: ${ioErrorText(result)}`
    throw new LinkError(`the other server, ${this.peer}, ${what}`)
  }

  /** Bytes of the block for what is received. */
  get blockBytes(): number {
    return this.#received.length
  }

  /** Address of a block of at least so many bytes, which keeps what was received into it until the next call. */
  block(sizeBytes: number): Address {
    if (sizeBytes > this.#received.length) this.#received = new Uint8Array(sizeBytes)
    return ptr(this.#received) as number
  }

  close(): void {
    io().io_unwatch_server(this.#fd)
    io().io_close(this.#fd)
  }
}
