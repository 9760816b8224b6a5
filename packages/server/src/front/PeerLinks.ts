import { formatEndpoint, LINK_KEY_BYTES, LinkStatus } from "@ggml-rpc/protocol"
import type { PeerRequest } from "../session/events.ts"
import { isDialable } from "../session/ports.ts"
import type { Peer } from "./Admission.ts"
import { dialPeer } from "./dialPeer.ts"
import { shownKey } from "./linkKey.ts"
import { oneLine } from "./log.ts"

/** A session process, as far as it is answered. */
export interface LinkingSession {
  /** See `sendNote`; the descriptor stays the caller's. */
  readonly note: (id: number, status: number, fd?: number) => void
}

export interface PeerLinksOptions {
  /** Whether this server may connect to an address for a client, both as sockets show them. */
  readonly mayDial: (address: string, client: string) => boolean
  /** This server's, which others may ask for. */
  readonly token?: string | undefined
  /** How long a link may take to come about. */
  readonly timeoutMs: number
  /** Why this server makes no links, as a `LinkStatus`; absent: it does. */
  readonly refusal?: number
  /** Told why a link did not come about. */
  readonly onFailure: (session: LinkingSession, reason: string) => void
}

/** Keys that a session may expect at a time, and connections that may be under way: in all, and for clients of one address. */
const MAX_EXPECTED = 64
const MAX_DIALS = 64
const MAX_DIALS_PER_ADDRESS = 16

/** The client of a session that asks for a link: see `Peer`. */
export type Asker = Pick<Peer, "host" | "address">

interface Expectation {
  readonly session: LinkingSession
  readonly id: number
  /** As it is shown. */
  readonly key: Uint8Array
  readonly timer: ReturnType<typeof setTimeout>
}

/**
 * Links between sessions of this server and of others, for their clients: who connects to whom, and which connection belongs to which
 * session. A session opens nothing itself.
 */
export class PeerLinks {
  readonly #options: PeerLinksOptions
  readonly #expected = new Set<Expectation>()
  readonly #dials = new Map<LinkingSession, number>()
  #dialCount = 0
  readonly #dialsByAddress = new Map<string, number>()
  readonly #closing = new AbortController()

  constructor(options: PeerLinksOptions) {
    this.#options = options
  }

  /** Connections that may come for a session: they take no client's place. */
  get expectedCount(): number {
    return this.#expected.size
  }

  /**
   * Does what a session asks for.
   *
   * @throws {Error} when no session asks for that
   */
  hear(session: LinkingSession, request: PeerRequest, asker: Asker): void {
    if (request.event === "forget") {
      this.forget(session, request.id)
      return
    }
    const { id, key } = request
    if (!Number.isInteger(id) || id < 1 || id > 0x7fff_ffff)
      throw new Error("a link without a number")
    if (typeof key !== "string" || !isKey(key)) throw new Error("a link without a key")
    const { refusal } = this.#options
    if (refusal !== undefined) session.note(id, refusal)
    else if (request.event === "dial") this.#dial(session, request, asker)
    else this.#expect(session, id, shownKey(Uint8Array.fromHex(key)))
  }

  #expect(session: LinkingSession, id: number, key: Uint8Array): void {
    let count = 0
    for (const other of this.#expected) if (other.session === session) count++
    if (count >= MAX_EXPECTED || this.#find(key) !== undefined) {
      session.note(id, LinkStatus.TOO_MANY)
      return
    }
    const late = (): void => {
      this.#expected.delete(expectation)
      session.note(id, LinkStatus.LATE)
      this.#options.onFailure(session, "the other server did not come in time")
    }
    const timer = setTimeout(late, this.#options.timeoutMs)
    const expectation: Expectation = { session, id, key, timer }
    this.#expected.add(expectation)
    session.note(id, LinkStatus.DONE)
  }

  #dial(
    session: LinkingSession,
    request: Extract<PeerRequest, { event: "dial" }>,
    { host: client, address }: Asker,
  ): void {
    const { id, host, port } = request
    if (typeof host !== "string" || !Number.isInteger(port)) throw new Error("a link to nowhere")
    if (!isDialable(port)) throw new Error("a link to a port of the system")
    // A session waits for one answer before it asks for another.
    if (this.#dials.has(session)) throw new Error("two links at a time")
    const ownCount = this.#dialsByAddress.get(address) ?? 0
    if (this.#dialCount >= MAX_DIALS || ownCount >= MAX_DIALS_PER_ADDRESS) {
      session.note(id, LinkStatus.TOO_MANY)
      return
    }
    this.#countDial(address, 1)
    this.#dials.set(session, id)
    const { mayDial, timeoutMs, token } = this.#options
    const target = { host, port, key: Uint8Array.fromHex(request.key), token }
    const signal = AbortSignal.any([this.#closing.signal, AbortSignal.timeout(timeoutMs)])
    const { dialled, ended } = dialPeer(target, (to) => mayDial(to, client), signal)
    void ended.then(() => this.#countDial(address, -1))
    void dialled.then((result) => {
      // Forgotten, or gone.
      const isWanted = this.#dials.get(session) === id
      if (isWanted) this.#dials.delete(session)
      if ("socket" in result) {
        if (isWanted) session.note(id, LinkStatus.DONE, result.fd)
        result.socket.close()
        return
      }
      if (!isWanted) return
      session.note(id, result.status)
      const where = formatEndpoint({ host: oneLine(host), port })
      this.#options.onFailure(session, `${where} ${result.reason}`)
    })
  }

  #countDial(address: string, by: 1 | -1): void {
    this.#dialCount += by
    const count = (this.#dialsByAddress.get(address) ?? 0) + by
    if (count === 0) this.#dialsByAddress.delete(address)
    else this.#dialsByAddress.set(address, count)
  }

  #find(key: Uint8Array): Expectation | undefined {
    let found: Expectation | undefined
    // Every one is compared, all of it: how long that takes says nothing of keys.
    for (const each of this.#expected) {
      if (crypto.timingSafeEqual(each.key, key)) found = each
    }
    return found
  }

  /**
   * Gives the session that expects the key of which this is shown the connection; false when none does. A key is good once. `accept` is called before, as
   * the session may write at once.
   */
  join(key: Uint8Array, fd: () => number, accept: () => void): boolean {
    const found = this.#find(key)
    if (found === undefined) return false
    this.#remove(found)
    accept()
    found.session.note(found.id, LinkStatus.DONE, fd())
    return true
  }

  #remove(expectation: Expectation): void {
    clearTimeout(expectation.timer)
    this.#expected.delete(expectation)
  }

  /** A session's client is gone, or wants no links any more; or not the one that it asked for under a number. */
  forget(session: LinkingSession, id?: number): void {
    if (id === undefined) this.#dials.delete(session)
    for (const each of [...this.#expected]) {
      if (each.session === session && (id === undefined || each.id === id)) this.#remove(each)
    }
  }

  close(): void {
    for (const each of [...this.#expected]) this.#remove(each)
    this.#dials.clear()
    this.#closing.abort()
  }
}

const isKey = (text: string): boolean =>
  text.length === 2 * LINK_KEY_BYTES && /^[0-9a-f]*$/.test(text)
