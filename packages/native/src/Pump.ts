import { io, socketPair } from "./io.ts"

/** A socket of the event loop, as far as bytes are passed through it. */
export interface PumpedSocket {
  /** Bytes that were taken; 0 to all. -1 when it is closed. */
  write(bytes: Uint8Array): number
  pause(): void
  resume(): void
  /** No more is written; what was, arrives. */
  end(): void
  /** Closes it at once. */
  terminate(): void
}

/** One direction: what a socket takes no more of is kept, and the other one pauses until it does. */
class Flow {
  readonly #kept: Uint8Array[] = []
  #from: PumpedSocket | undefined
  #to: PumpedSocket | undefined
  #isEnded = false

  between(from: PumpedSocket, to: PumpedSocket): void {
    this.#from = from
    this.#to = to
    if (this.#kept.length > 0) from.pause()
    this.drain()
  }

  push(bytes: Uint8Array): void {
    if (this.#kept.length > 0 || this.#to === undefined) {
      // The bytes are the runtime's, which uses them again.
      this.#kept.push(bytes.slice())
      return
    }
    const taken = Math.max(0, this.#to.write(bytes))
    if (taken === bytes.length) return
    this.#kept.push(bytes.slice(taken))
    this.#from!.pause()
  }

  /** The socket takes more. */
  drain(): void {
    const to = this.#to
    if (to === undefined) return
    while (this.#kept.length > 0) {
      const bytes = this.#kept[0]!
      const taken = Math.max(0, to.write(bytes))
      if (taken < bytes.length) {
        this.#kept[0] = bytes.subarray(taken)
        return
      }
      this.#kept.shift()
    }
    if (this.#isEnded) to.end()
    else this.#from!.resume()
  }

  /** No more will come. */
  end(): void {
    if (this.#isEnded) return
    this.#isEnded = true
    if (this.#kept.length === 0) this.#to?.end()
  }
}

/**
 * Passes bytes between a socket of the event loop, such as one of TLS, and a descriptor for a process that reads and writes a
 * plain one and waits. Keeps at most what either side sends at once.
 */
export class Pump {
  /** The plain end; its owner closes it. */
  readonly far: number
  readonly #outer: PumpedSocket
  readonly #inwards = new Flow()
  readonly #outwards = new Flow()

  /** @throws {Error} when the system refuses a pair of sockets */
  constructor(outer: PumpedSocket) {
    const [near, far] = socketPair()
    this.far = far
    this.#outer = outer
    const over = (): void => this.#outwards.end()
    const handlers = {
      open: (inner: PumpedSocket) => {
        this.#inwards.between(outer, inner)
        this.#outwards.between(inner, outer)
      },
      data: (_: PumpedSocket, bytes: Uint8Array) => this.#outwards.push(bytes),
      drain: () => this.#inwards.drain(),
      end: over,
      close: over,
      error: over,
    }
    // `fd` is not in Bun's types.
    const options = { fd: near, socket: handlers } as never
    Bun.connect(options).catch(() => {
      io().io_close(near)
      outer.terminate()
    })
  }

  /** Bytes of the outer socket. */
  receive(bytes: Uint8Array): void {
    this.#inwards.push(bytes)
  }

  /** The outer socket takes more. */
  drain(): void {
    this.#outwards.drain()
  }

  /** The outer socket is over. */
  end(): void {
    this.#inwards.end()
  }

  /** Ends both sides. */
  close(): void {
    this.#inwards.end()
    this.#outer.terminate()
  }
}
