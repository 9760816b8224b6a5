import { io, Pump, type PumpedSocket } from "@ggml-rpc/native/bindings"
import {
  encodeLinkKeyAnswer,
  formatEndpoint,
  LinkStatus,
  type ProtocolSpec,
} from "@ggml-rpc/protocol"
import type { ClientEventSink, ClientName } from "./ClientEvents.ts"
import type { Greeting, Verdict } from "./Greeting.ts"
import { rememberedAddress } from "./VersionOffers.ts"

/** Who is at the other end of a connection. */
export interface Peer {
  readonly client: ClientName
  /** Its address as the socket shows it. */
  readonly host: string
  /** Under which limits count it; see `rememberedAddress`. */
  readonly address: string
}

/** A connection that has said HELLO. */
export interface Admitted extends Peer {
  /** Still owned by `Admission`, which closes it: who keeps it duplicates it. */
  readonly fd: number
  /** What was read of it, HELLO first. */
  readonly early: Uint8Array
  readonly helloBytes: number
  /** Version that its port speaks alone. */
  readonly pinned: ProtocolSpec | undefined
}

/** An accepted connection, as `Bun.listen` has it. */
export interface AcceptedSocket extends PumpedSocket {
  readonly remoteAddress: string
  readonly remotePort: number
  /** Ends this process's copy of the connection, and not the connection where another process has one. */
  close(): void
  data: Handshake | Pump | undefined
}

export interface AdmissionOptions {
  /** One deadline for all that comes before a session. */
  readonly timeoutMs: number
  /** Connections that have not said HELLO: in all, and from one address. More, and the oldest ones are closed. */
  readonly maxHandshakes: number
  readonly maxHandshakesPerAddress: number
  /** Asked before a byte is read; a clause for the log keeps the connection out. */
  readonly check?: (peer: Peer) => string | undefined
  /** What has to be said on a new connection. */
  readonly greet: (peer: Peer) => Greeting
  /** A connection's own descriptor, which a session gets; undefined where the front has to pass its bytes on. */
  readonly descriptorOf: ((socket: AcceptedSocket) => number) | undefined
  readonly onAdmitted: (admitted: Admitted) => void
  /**
   * Gives a connection to the session that expects this key, after `accept`; false when none does. Absent: there are no links
   * between servers.
   */
  readonly onJoined?: (key: Uint8Array, fd: () => number, accept: () => void) => boolean
  readonly onEvent: ClientEventSink
}

/** A connection before it has a session. */
interface Handshake extends Peer {
  readonly socket: AcceptedSocket
  readonly greeting: Greeting
  readonly deadline: ReturnType<typeof setTimeout>
  readonly openedAt: number
}

const linkAccepted = encodeLinkKeyAnswer(LinkStatus.DONE)

const NO_TLS =
  "speaks no TLS, or does not trust this server's certificate: clients of ggml-rpc have --tls-fingerprint and --tls-ca"

/**
 * Lets connections in: each has one deadline to say HELLO, and takes neither a process nor a client's place before. Where too
 * many keep silent the oldest give way, so that one that speaks always gets through.
 */
export class Admission {
  readonly #options: AdmissionOptions
  /** Oldest first. */
  readonly #handshakes = new Set<Handshake>()
  /** What passes the bytes of connections that sessions have. */
  readonly #pumps = new Set<Pump>()
  readonly #countByAddress = new Map<string, number>()

  constructor(options: AdmissionOptions) {
    this.#options = options
  }

  /** Connections that have not said HELLO. */
  get handshakeCount(): number {
    return this.#handshakes.size
  }

  /** What `Bun.listen` calls; all versions are spoken on its port, or the one that is pinned. */
  handlers(pinned: ProtocolSpec | undefined) {
    return {
      open: (socket: AcceptedSocket) => this.#open(socket),
      data: (socket: AcceptedSocket, bytes: Uint8Array) => this.#receive(socket, bytes, pinned),
      handshake: (socket: AcceptedSocket, isDone: boolean) => this.#secured(socket, isDone),
      drain: ({ data }: AcceptedSocket) => {
        if (data instanceof Pump) data.drain()
      },
      end: (socket: AcceptedSocket) => this.#lose(socket, "closed before HELLO"),
      close: (socket: AcceptedSocket) => this.#lose(socket, "closed before HELLO"),
      error: (socket: AcceptedSocket, error: Error) => this.#lose(socket, error.message),
    }
  }

  #open(socket: AcceptedSocket): void {
    const host = plainAddress(socket.remoteAddress)
    const client = formatEndpoint({ host, port: socket.remotePort })
    const peer: Peer = { client, host, address: rememberedAddress(host) }
    const { check, greet, timeoutMs, onEvent } = this.#options
    const reason = check?.(peer)
    if (reason !== undefined) {
      socket.close()
      onEvent({ kind: "turned away", ...peer, reason })
      return
    }
    this.#makeRoom(peer.address)
    const deadline = setTimeout(
      () => this.#drop(handshake, "said no HELLO in time", "left"),
      timeoutMs,
    )
    const handshake: Handshake = {
      ...peer,
      socket,
      greeting: greet(peer),
      deadline,
      openedAt: performance.now(),
    }
    socket.data = handshake
    this.#handshakes.add(handshake)
    this.#countByAddress.set(peer.address, this.#countOf(peer.address) + 1)
  }

  #receive(socket: AcceptedSocket, bytes: Uint8Array, pinned: ProtocolSpec | undefined): void {
    const handshake = socket.data
    if (handshake === undefined) return
    if (handshake instanceof Pump) {
      handshake.receive(bytes)
      return
    }
    const verdict: Verdict = handshake.greeting.receive(bytes)
    if (verdict === "more") return
    if (verdict.kind === "joins") {
      this.#join(handshake, verdict.key)
      return
    }
    if (verdict.kind !== "admitted" && verdict.answer !== undefined) socket.write(verdict.answer)
    if (verdict.kind === "answer") return
    if (verdict.kind === "refused") {
      this.#drop(handshake, verdict.reason, "refused")
      return
    }
    this.#forget(handshake)
    const { client, host, address } = handshake
    const { early, helloBytes } = verdict
    const { descriptorOf, onAdmitted } = this.#options
    const admitted = { client, host, address, early, helloBytes, pinned }
    if (descriptorOf !== undefined) {
      onAdmitted({ ...admitted, fd: descriptorOf(socket) })
      socket.close()
      return
    }
    const pump = new Pump(socket)
    socket.data = pump
    this.#pumps.add(pump)
    onAdmitted({ ...admitted, fd: pump.far })
    io().io_close(pump.far)
  }

  #join(handshake: Handshake, key: Uint8Array): void {
    const { socket } = handshake
    const { descriptorOf, onJoined } = this.#options
    const accept = (): void => {
      this.#forget(handshake)
      socket.write(linkAccepted)
    }
    if (descriptorOf === undefined || !onJoined?.(key, () => descriptorOf(socket), accept)) {
      this.#drop(handshake, "shows the key of a link that nobody here expects", "refused")
      return
    }
    socket.close()
  }

  #secured(socket: AcceptedSocket, isDone: boolean): void {
    if (isDone || socket.data === undefined || socket.data instanceof Pump) return
    this.#drop(socket.data, NO_TLS, "refused")
  }

  #lose(socket: AcceptedSocket, reason: string): void {
    if (socket.data instanceof Pump) {
      this.#pumps.delete(socket.data)
      socket.data.end()
    }
    if (socket.data === undefined || socket.data instanceof Pump) return
    const { lacks } = socket.data.greeting
    this.#drop(socket.data, lacks ?? reason, lacks === undefined ? "left" : "refused")
  }

  #drop(handshake: Handshake, reason: string, kind: "left" | "refused"): void {
    this.#forget(handshake)
    handshake.socket.close()
    const seconds = (performance.now() - handshake.openedAt) / 1000
    const { client, address } = handshake
    this.#options.onEvent({ kind, client, address, reason, seconds })
  }

  #forget(handshake: Handshake): void {
    handshake.socket.data = undefined
    clearTimeout(handshake.deadline)
    this.#handshakes.delete(handshake)
    const left = this.#countOf(handshake.address) - 1
    if (left === 0) this.#countByAddress.delete(handshake.address)
    else this.#countByAddress.set(handshake.address, left)
  }

  #countOf(address: string): number {
    return this.#countByAddress.get(address) ?? 0
  }

  /** Closes the oldest handshake of an address that has too many, or of the one that has most when all have. */
  #makeRoom(address: string): void {
    const { maxHandshakes, maxHandshakesPerAddress } = this.#options
    if (this.#countOf(address) >= maxHandshakesPerAddress) {
      this.#dropOldest(address, `one of ${maxHandshakesPerAddress} from there that said no HELLO`)
    } else if (this.#handshakes.size >= maxHandshakes) {
      const [[most]] = [...this.#countByAddress].sort(([, a], [, b]) => b - a) as [[string, number]]
      this.#dropOldest(most, `one of ${maxHandshakes} connections that said no HELLO`)
    }
  }

  #dropOldest(address: string, reason: string): void {
    for (const handshake of this.#handshakes) {
      if (handshake.address !== address) continue
      this.#drop(handshake, `${reason}, and the oldest`, "left")
      return
    }
  }

  /** Closes what has not got through. */
  close(): void {
    for (const pump of this.#pumps) pump.close()
    for (const handshake of this.#handshakes) {
      this.#forget(handshake)
      handshake.socket.close()
    }
  }
}

/** IPv4 addresses as they are where one port serves IPv6 as well, too. */
const plainAddress = (address: string): string => address.replace(/^::ffff:(?=[\d.]+$)/i, "")
