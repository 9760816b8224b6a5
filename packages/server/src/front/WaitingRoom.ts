import { io, ioErrorText } from "@ggml-rpc/native/bindings"
import type { Admitted } from "./Admission.ts"
import { FairQueue } from "./FairQueue.ts"

/** A connection that waits for a process. `fd` is the room's own copy. */
export interface Waiting extends Admitted {
  readonly waitingSince: number
  /** It has waited long enough for a process that serves another client. */
  wantsProcess: boolean
  timer: ReturnType<typeof setTimeout>
}

const TOO_LATE = "no session process was free for it in time"

export interface WaitingRoomOptions {
  /** How long a connection may wait. */
  readonly patienceMs: number
  /** `wantsProcess` became true for one. */
  readonly onWanting: () => void
  /** It got no process, for this reason. */
  readonly onTurnedAway: (connection: Admitted, reason: string) => void
  /** Its client has not waited. */
  readonly onLeft: (waiting: Waiting) => void
}

/** Connections that have said HELLO and wait for a session process; addresses take turns. */
export class WaitingRoom {
  readonly #options: WaitingRoomOptions
  readonly #queue = new FairQueue<Waiting>()

  constructor(options: WaitingRoomOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#queue.size
  }

  /** Addresses of those that wait, in the order of their turns. */
  get addresses(): IterableIterator<string> {
    return this.#queue.keys
  }

  countOf(address: string): number {
    return this.#queue.itemsOf(address).length
  }

  /** How many of an address want a process. */
  wantingCountOf(address: string): number {
    return this.#queue.itemsOf(address).reduce((sum, { wantsProcess }) => sum + +wantsProcess, 0)
  }

  /** Lets a connection wait; after `quietMs` it wants a process. */
  add(connection: Admitted, quietMs: number): void {
    const copy = io().io_duplicate(connection.fd)
    if (copy < 0) {
      this.#options.onTurnedAway(connection, ioErrorText(copy))
      return
    }
    const want = (): void => {
      waiting.wantsProcess = true
      waiting.timer = setTimeout(() => this.#turnAway(waiting, TOO_LATE), this.#options.patienceMs)
      this.#options.onWanting()
    }
    const timer = setTimeout(want, quietMs)
    const waitingSince = performance.now()
    const waiting: Waiting = { ...connection, fd: copy, waitingSince, wantsProcess: false, timer }
    this.#queue.add(connection.address, waiting)
  }

  /**
   * Takes the next connection of an address that `may`, whose client is still there, and its timer; the caller closes its
   * descriptor.
   */
  take(may: (address: string) => boolean): Waiting | undefined {
    for (;;) {
      const waiting = this.#queue.take(may)
      if (waiting === undefined) return undefined
      clearTimeout(waiting.timer)
      if (!isGone(waiting)) return waiting
      io().io_close(waiting.fd)
      this.#options.onLeft(waiting)
    }
  }

  /** Lets those go whose clients have gone. */
  dropGone(): void {
    for (const address of [...this.#queue.keys]) {
      for (const waiting of this.#queue.itemsOf(address).filter(isGone)) {
        this.#remove(waiting)
        this.#options.onLeft(waiting)
      }
    }
  }

  /** Whether another connection of this address would be there at the cost of one of another address. */
  canDisplace(address: string): boolean {
    const { longest } = this.#queue
    return longest !== undefined && this.countOf(longest) > this.countOf(address) + 1
  }

  /** Turns away the newest one of the address that has most. */
  displace(reason: string): void {
    const { longest } = this.#queue
    const newest = longest === undefined ? undefined : this.#queue.itemsOf(longest).at(-1)
    if (newest !== undefined) this.#turnAway(newest, reason)
  }

  /** Turns away the one of an address that has waited longest. */
  turnAwayNext(address: string, reason: string): void {
    const [next] = this.#queue.itemsOf(address)
    if (next !== undefined) this.#turnAway(next, reason)
  }

  #turnAway(waiting: Waiting, reason: string): void {
    this.#remove(waiting)
    this.#options.onTurnedAway(waiting, reason)
  }

  #remove(waiting: Waiting): void {
    this.#queue.remove(waiting.address, waiting)
    clearTimeout(waiting.timer)
    io().io_close(waiting.fd)
  }

  /** Closes what waits. */
  close(): void {
    for (const address of [...this.#queue.keys]) {
      for (const waiting of [...this.#queue.itemsOf(address)]) this.#remove(waiting)
    }
  }
}

/** A client that ends its sending side counts as gone, as in a session. */
const isGone = ({ fd }: Waiting): boolean => io().io_peer_gone(fd) !== 0
