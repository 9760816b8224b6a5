import { ptr } from "bun:ffi"
import { type Address, asPointer, errno, io, ioErrorText } from "@ggml-rpc/native/bindings"
import { LinkStatus, PeerFault } from "@ggml-rpc/protocol"
import { ClientGone, ComputeError, LinkError } from "./errors.ts"
import type { PeerRequest } from "./events.ts"
import { type FrontNote, receiveNote } from "./handOver.ts"

/** What links to servers of ours may take. */
export interface PeerLimits {
  /** Why there are none, as a `LinkStatus`; absent: there are. */
  readonly refusal?: number
  /** How long another server may take to come, or to let this one in. */
  readonly linkMs: number
  /** How long it may send nothing of a part that is awaited, for which it may have to compute first. */
  readonly silenceMs: number
  /** How long this process stays awake for a part before it sleeps. */
  readonly spinMs: number
}

/** Where the front process answers, and whose end ends all waits. */
export interface FrontChannel {
  readonly channel: number
  readonly clientFd: number
  /** Tells the front process what is wanted. */
  readonly ask: (request: PeerRequest) => void
}

/** What the front process takes for itself besides: its own limit comes first. */
const FRONT_MS = 2000

/** See `io_tune_socket`. */
const KEEPALIVE_S = 10

const ADDRESS_BYTES = 64

interface Member {
  /** Number of what was asked of the front process for it; 0: nothing. */
  asked: number
  fd: number
  /** The other server, for messages. */
  name: string
}

/** What another server did. */
const faults: Readonly<Record<number, string>> = {
  [PeerFault.LEFT]: "ended the link",
  [PeerFault.SILENT]: "neither sent nor took anything in time",
  [PeerFault.WRONG]: "sent something else than its part of this sum",
}

/**
 * One server's place in a group, and its links to the others. Nothing here opens or listens: the front process does, and hands over
 * descriptors.
 */
export class PeerGroup {
  readonly rank: number
  readonly worldSize: number
  readonly #limits: PeerLimits
  readonly #channel: FrontChannel
  readonly #native: Address
  readonly #members: readonly Member[]
  /** Answers that came before somebody waited for them. */
  readonly #notes = new Map<number, FrontNote>()
  readonly #report = new Int32Array(3)
  readonly #reportAt = asPointer(ptr(this.#report) as number)
  /** Bytes that sums may take besides what they add up: there was memory for them. */
  grantedBytes = 0
  /** Of sums to which each server adds one part. */
  readonly onePartEach: Uint8Array
  /** Every server of the group is linked. */
  isComplete = false
  /** Of all groups of the process, so that an answer for one that is gone is known. */
  static #lastAsked = 0

  /** @throws {ComputeError} without memory */
  constructor(rank: number, worldSize: number, limits: PeerLimits, channel: FrontChannel) {
    this.rank = rank
    this.worldSize = worldSize
    this.onePartEach = Uint8Array.from({ length: worldSize }, (_, place) => place)
    this.#limits = limits
    this.#channel = channel
    this.#native = Number(io().io_group_new(rank, worldSize, limits.spinMs))
    if (this.#native === 0) throw new ComputeError("out of memory for links to other servers")
    this.#members = Array.from({ length: worldSize }, () => ({ asked: 0, fd: -1, name: "" }))
  }

  /** Has the front process expect a connection with this key; returns a `LinkStatus`. */
  expect(peer: number, key: string): number {
    const member = this.#members[peer]!
    if (member.fd >= 0) return LinkStatus.TOO_MANY
    const id = this.#ask(member)
    this.#channel.ask({ event: "expect", id, key })
    const { status } = this.#answer(id)
    if (status !== LinkStatus.DONE) member.asked = 0
    return status
  }

  /** Has the front process connect to another server; returns a `LinkStatus`. */
  dial(peer: number, key: string, host: string, port: number): number {
    const member = this.#members[peer]!
    if (member.fd >= 0) return LinkStatus.TOO_MANY
    const id = this.#ask(member)
    this.#channel.ask({ event: "dial", id, key, host, port })
    return this.#take(peer, this.#answer(id))
  }

  /** Waits for the connection that is expected; returns a `LinkStatus`. */
  await(peer: number): number {
    const member = this.#members[peer]!
    if (member.fd >= 0) return LinkStatus.DONE
    if (member.asked === 0) return LinkStatus.LATE
    return this.#take(peer, this.#answer(member.asked))
  }

  /** The number of something new. What was asked before for this server is not wanted any more: the other way did not do. */
  #ask(member: Member): number {
    if (member.asked !== 0) {
      const early = this.#notes.get(member.asked)
      if (early !== undefined && early.fd >= 0) io().io_close(early.fd)
      this.#notes.delete(member.asked)
      this.#channel.ask({ event: "forget", id: member.asked })
    }
    member.asked = ++PeerGroup.#lastAsked
    return member.asked
  }

  #answer(id: number): FrontNote {
    const early = this.#notes.get(id)
    if (early !== undefined) {
      this.#notes.delete(id)
      return early
    }
    const { channel, clientFd } = this.#channel
    const deadline = performance.now() + this.#limits.linkMs + FRONT_MS
    for (;;) {
      const note = receiveNote(channel, clientFd, deadline - performance.now())
      if (note === "gone") throw new ClientGone("closed while its server waited for another one")
      if (note === "late") return { id, status: LinkStatus.LATE, fd: -1 }
      if (note.id === id) return note
      if (this.#members.some(({ asked }) => asked === note.id)) this.#notes.set(note.id, note)
      // For a group that is gone.
      else if (note.fd >= 0) io().io_close(note.fd)
    }
  }

  #take(peer: number, { status, fd }: FrontNote): number {
    const member = this.#members[peer]!
    if (fd < 0) {
      member.asked = 0
      return status === LinkStatus.DONE ? LinkStatus.LATE : status
    }
    member.fd = fd
    member.name = peerName(fd)
    io().io_tune_socket(fd, KEEPALIVE_S)
    io().io_watch_server(fd)
    io().io_group_link(asPointer(this.#native), peer, fd)
    this.isComplete = this.missing === undefined
    return LinkStatus.DONE
  }

  /** Address of the other server; "" before it is linked. */
  nameOf(peer: number): string {
    return this.#members[peer]!.name
  }

  /** The first server that is not linked; undefined when all are. */
  get missing(): number | undefined {
    const found = this.#members.findIndex(({ fd }, peer) => fd < 0 && peer !== this.rank)
    return found < 0 ? undefined : found
  }

  /** Bytes of host memory that adding up `count` floats of `parts` parts takes besides them; this server has `own` of these. */
  workBytes(count: number, own: number, parts: number): number {
    return io().io_all_reduce_bytes(asPointer(this.#native), own, parts, count)
  }

  /**
   * Adds up `partCount` parts of all servers: part i lies on the server of place `places[i]`, which all are below the world size, and none lacks;
   * those of this one are `count` floats each at `data`, one after the other, and the sum is put into the first. Bit i of `counting`: part i
   * counts, else zeros do. With `isBf16` what travels is rounded to bf16.
   *
   * @throws {LinkError} that names the server on which it failed @throws {ClientGone} @throws {ComputeError} without memory
   */
  allReduce(
    data: Address,
    count: number,
    places: Uint8Array,
    partCount: number,
    counting: number,
    isBf16: boolean,
  ): void {
    const result = io().io_all_reduce(
      asPointer(this.#native),
      asPointer(data),
      places,
      partCount,
      count,
      counting,
      isBf16 ? 1 : 0,
      this.#channel.clientFd,
      this.#limits.silenceMs,
      this.#reportAt,
    )
    if (result === 0) return
    if (result !== errno.cancelled && result !== errno.protocol)
      throw new ComputeError("out of memory for a sum over servers")
    const lost = { place: this.#report[0]!, fault: this.#report[1]! }
    const { fd, name } = this.#members[lost.place]!
    const who = `the other server, ${name} (number ${lost.place} of ${this.worldSize})`
    if (result === errno.cancelled)
      throw new ClientGone(`closed while a part of a sum did not come from ${who}`, lost)
    const isSilent = io().io_unwatch_server(fd) === 1
    const what = isSilent
      ? "gives no sign of life"
      : (faults[lost.fault] ?? `is not reached any more: ${ioErrorText(this.#report[2]!)}`)
    throw new LinkError(`${who}, ${what}`, lost)
  }

  /** Ends all links. */
  close(): void {
    for (const { fd } of this.#members) {
      if (fd < 0) continue
      io().io_unwatch_server(fd)
      io().io_close(fd)
    }
    for (const { fd } of this.#notes.values()) if (fd >= 0) io().io_close(fd)
    this.#notes.clear()
    io().io_group_free(asPointer(this.#native))
    this.#channel.ask({ event: "forget" })
  }
}

const peerName = (fd: number): string => {
  const text = new Uint8Array(ADDRESS_BYTES)
  io().io_peer_address(fd, text, text.length)
  return new TextDecoder().decode(text.subarray(0, text.indexOf(0)))
}
