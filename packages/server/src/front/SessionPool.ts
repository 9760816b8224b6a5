import { availableParallelism } from "node:os"
import { io } from "@ggml-rpc/native/bindings"
import type { ClosedEvent, DeviceReport, SessionEvent, SessionSummary } from "../session/events.ts"
import type { StatsCounts } from "../session/SessionStats.ts"
import { AddressCosts, type AddressRates } from "./AddressCosts.ts"
import type { Admitted, Peer } from "./Admission.ts"
import type { ClientEventSink, ClientName } from "./ClientEvents.ts"
import { ClientVersions, type ClientVersionsOptions } from "./ClientVersions.ts"
import { type LogLevel, oneLine } from "./log.ts"
import { type Member, Members, type MembersOptions } from "./Members.ts"
import { OomWatch } from "./OomWatch.ts"
import { PeerLinks, type PeerLinksOptions } from "./PeerLinks.ts"
import { SessionNews } from "./SessionNews.ts"
import {
  describeExit,
  type SessionExit,
  type SessionListener,
  type SessionProcess,
} from "./SessionProcess.ts"
import { WaitingRoom } from "./WaitingRoom.ts"

export interface PoolOptions extends ClientVersionsOptions, MembersOptions {
  /** Clients served at the same time, those that wait for a process included. */
  readonly maxClients: number
  /** Session processes that wait for a client. */
  readonly spareCount: number
  readonly onEvent: ClientEventSink
  readonly onStats?: (stats: StatsCounts) => void
  readonly links: Omit<PeerLinksOptions, "onFailure">
  /** What clients of one address may cost; absent: anything. */
  readonly limits: AddressRates | undefined
}

/** What the first session process tells. */
export interface Started {
  readonly devices: readonly DeviceReport[]
  /** See `describeSandbox`. */
  readonly sandbox: string
  readonly repacked: readonly string[]
}

/** Why the first session process gave no devices. */
export type StartFailure =
  | {
      readonly kind: "unknown-device"
      readonly name: string
      readonly available: readonly DeviceReport[]
    }
  | { readonly kind: "died"; readonly reason: string }

/**
 * A client that is still there after this long gets a spare started behind it. Upstream's clients open a
 * dozen connections a run that last less than a millisecond, which share one process; and a start takes 50 to 60 ms of a core, and
 * its warm-up 0.2 s when nobody wants the process, which the client needs for loading, its prompt and its first tokens. Who
 * connects before the spare is there waits for the start alone.
 */
const SPARE_DELAY_MS = 30_000

/**
 * Such a client opens its next connection before it closes the last one. So when no process waits, one is started only when
 * a connection has waited for so long, and in all that time no process got free.
 */
const REUSE_WAIT_MS = 4

/** The same for clients in a loop: their sessions are short, but a machine may be busy. */
const STRAINED_WAIT_MS = 100

/** How long a connection that wants a process may wait for one: there may be many before it. */
const START_PATIENCE_MS = 60_000

/** Processes that start at a time. Each takes a core, and the others are for clients that are served. */
const MAX_STARTS = Math.max(1, Math.floor(availableParallelism() / 2))

/** Surplus processes, left over from a burst, end after waiting this long. */
const SURPLUS_IDLE_MS = 5_000

/** Exit code of a process whose client left during a long operation; the shim's `io_watch_client`. */
const CLIENT_GONE_EXIT = 3

/** The session processes of a server: hands each client to one, and keeps spares warm. */
export class SessionPool {
  readonly #options: PoolOptions
  readonly #members: Members
  readonly #idle: Member[] = []
  readonly #room: WaitingRoom
  readonly #versions: ClientVersions
  readonly #costs: AddressCosts
  readonly #news: SessionNews
  readonly #oomWatch = new OomWatch()
  /** Links of sessions to those of other servers. */
  readonly links: PeerLinks
  /** When a process last got free for another client. */
  #freedAt = Number.NEGATIVE_INFINITY
  #closing = false
  #surplusTimer: ReturnType<typeof setTimeout> | undefined
  /** Serves again when an address may do something that it had to wait for. */
  #serveTimer: ReturnType<typeof setTimeout> | undefined
  #spareTimer: ReturnType<typeof setTimeout> | undefined
  #started: ((result: Started | StartFailure) => void) | undefined

  constructor(options: PoolOptions) {
    this.#options = options
    this.#members = new Members(options, this.#listener)
    this.#versions = new ClientVersions(options)
    this.#costs = new AddressCosts(options.limits)
    this.#news = new SessionNews(options.log)
    this.links = new PeerLinks({
      ...options.links,
      onFailure: (session, reason) => {
        const member = this.#members.of(session as SessionProcess)
        if (member === undefined) return
        this.#news.link(peerOf(member), { event: "unlinked", reason })
      },
    })
    this.#room = new WaitingRoom({
      patienceMs: START_PATIENCE_MS,
      onWanting: () => this.#serve(),
      onTurnedAway: (connection, reason) => this.#turnAway(connection, reason),
      onLeft: ({ client, address, waitingSince }) =>
        options.onEvent({
          ...{ kind: "left", client, address, reason: "before it was served" },
          seconds: secondsSince(waitingSince),
        }),
    })
  }

  /** Starts the first process and waits for its devices. */
  start(): Promise<Started | StartFailure> {
    return new Promise((resolve) => {
      this.#started = (result) => {
        this.#started = undefined
        resolve(result)
      }
      const failure = this.#spawn("")
      if (failure !== undefined) this.#started({ kind: "died", reason: failure })
    })
  }

  /** Clients that are served or wait for a process. */
  get clientCount(): number {
    return this.#room.size + this.#members.servingCount
  }

  /** Ids of the session processes that serve a client, and how many clients wait for one. */
  get serving(): { readonly pids: readonly number[]; readonly waitingCount: number } {
    return { pids: this.#members.servingPids, waitingCount: this.#room.size }
  }

  /** Ids of all session processes. */
  get processIds(): readonly number[] {
    return this.#members.pids
  }

  /** Why no more clients of an address can be served now, as a clause; undefined when they can. */
  fullnessFor(address: string): string | undefined {
    if (this.clientCount < this.#options.maxClients || this.#room.canDisplace(address)) {
      return undefined
    }
    return this.#fullness
  }

  get #fullness(): string {
    const { maxClients } = this.#options
    return `${maxClients === 1 ? "a client is" : `${maxClients} clients are`} connected already`
  }

  /** Hands a connection to a session process. The caller closes its own copy of `fd` afterwards. */
  assign(connection: Admitted): void {
    const fullness = this.fullnessFor(connection.address)
    if (fullness !== undefined) {
      this.#turnAway(connection, fullness)
      return
    }
    if (this.clientCount >= this.#options.maxClients) this.#room.displace(this.#fullness)
    if (this.#room.size === 0 && this.#idle.length > 0 && this.#mayBeServed(connection.address)) {
      this.#give(connection)
      return
    }
    const isStrained = this.#costs.isStrained(connection.address)
    const quietMs = isStrained ? STRAINED_WAIT_MS : REUSE_WAIT_MS
    this.#room.add(connection, this.#members.mayGetFree ? quietMs : 0)
    this.#serve()
  }

  #turnAway({ client, address }: Admitted, reason: string): void {
    this.#options.onEvent({ kind: "turned away", client, address, reason })
  }

  readonly #mayBeServed = (address: string): boolean => this.#costs.waitToServe(address) <= 0

  /** Gives processes to those who wait, as far as there are any, and starts more. */
  #serve(): void {
    if (this.#closing) return
    while (this.#idle.length > 0) {
      const waiting = this.#room.take(this.#mayBeServed)
      if (waiting === undefined) break
      this.#give(waiting)
      io().io_close(waiting.fd)
    }
    this.#startWanted()
    this.#scheduleServe()
  }

  /** Gives a connection to the process that waits first. */
  #give(connection: Admitted): void {
    const { client, host, address, pinned } = connection
    const member = this.#idle.shift()!
    const offer = pinned === undefined ? this.#versions.next(address) : { pinned }
    const problem = member.process.send({ ...connection, offer })
    if (problem !== "") {
      // It is dying, as a rule; its exit is reported on its own.
      member.process.stop()
      this.#turnAway(connection, `the session process does not take it (${problem})`)
      return
    }
    this.#costs.countSession(address)
    member.client = client
    member.address = address
    member.host = host
    member.since = performance.now()
    member.offer = offer
    const { pid } = member.process
    this.#options.onEvent({ kind: "came", client, address, pid, helloBytes: connection.helloBytes })
    setTimeout(() => {
      if (member.client === client) this.#keepSpare(address)
    }, SPARE_DELAY_MS).unref()
  }

  /** Starts processes for those who want one, address after address. */
  #startWanted(): void {
    if (this.#room.size === 0 || this.#hopeMs > 0) return
    this.#room.dropGone()
    while (this.#members.startingCount < MAX_STARTS) {
      const address = [...this.#room.addresses].find((candidate) => this.#mayStartFor(candidate))
      if (address === undefined) return
      const failure = this.#spawn(address)
      if (failure !== undefined) this.#room.turnAwayNext(address, `no session process (${failure})`)
    }
  }

  /** How much longer those who wait may hope for what gets free. */
  get #hopeMs(): number {
    return this.#freedAt + REUSE_WAIT_MS - performance.now()
  }

  #mayStartFor(address: string): boolean {
    return (
      this.#members.startingCountFor(address) < this.#room.wantingCountOf(address) &&
      this.#mayBeServed(address) &&
      this.#costs.waitToStart(address) <= 0
    )
  }

  /** Comes back when the first address that has to wait may go on. */
  #scheduleServe(): void {
    clearTimeout(this.#serveTimer)
    let soonest = Number.POSITIVE_INFINITY
    for (const address of this.#room.addresses) {
      const wait = Math.max(
        this.#costs.waitToServe(address),
        this.#idle.length > 0 ? 0 : this.#costs.waitToStart(address),
        this.#hopeMs,
      )
      if (wait > 0) soonest = Math.min(soonest, wait)
    }
    if (soonest === Number.POSITIVE_INFINITY) return
    this.#serveTimer = setTimeout(() => this.#serve(), Math.ceil(soonest))
  }

  /** Ends all processes. */
  async close(): Promise<void> {
    this.#closing = true
    for (const timer of [this.#surplusTimer, this.#serveTimer, this.#spareTimer]) {
      clearTimeout(timer)
    }
    this.#room.close()
    this.links.close()
    await this.#members.end()
  }

  #log(level: LogLevel, message: string): void {
    this.#options.log({ level, message })
  }

  /** Starts a process at the cost of an address ("": of none); returns what went wrong, if anything. */
  #spawn(address: string): string | undefined {
    if (address !== "") this.#costs.countStart(address)
    return this.#members.start(address, this.#started !== undefined)
  }

  /** Has spares started at the cost of an address whose client took one, as soon as it may. */
  #keepSpare(address: string): void {
    if (this.#closing) return
    while (this.#idle.length + this.#members.startingCount < this.#options.spareCount) {
      const wait = this.#costs.waitToStart(address)
      if (wait > 0) {
        clearTimeout(this.#spareTimer)
        this.#spareTimer = setTimeout(() => this.#keepSpare(address), Math.ceil(wait))
        this.#spareTimer.unref()
        return
      }
      const failure = this.#spawn(address)
      if (failure === undefined) continue
      this.#log("warning", `no spare session process: ${oneLine(failure)}`)
      return
    }
  }

  readonly #listener: SessionListener = {
    onEvent: (process, event) => {
      const member = this.#members.of(process)
      if (member !== undefined) this.#hear(member, event)
    },
    onLine: (process, line) => {
      if (!this.#options.config.debug) return
      const client = this.#members.of(process)?.client
      this.#log("debug", `${client ?? `process ${process.pid}`}: ${oneLine(line)}`)
    },
    onExit: (process, exit) => {
      const member = this.#members.of(process)
      if (member !== undefined) this.#bury(member, exit)
    },
  }

  #hear(member: Member, event: SessionEvent): void {
    switch (event.event) {
      case "ready":
        this.#onReady(member, event)
        return
      case "unknown-device":
        this.#started?.({
          kind: "unknown-device",
          name: event.name,
          available: event.available,
        })
        return
      case "failed":
        member.failure = event.message
        return
      case "link":
      case "linked":
      case "unlinked":
        this.#news.link(peerOf(member), event)
        return
      case "expect":
      case "dial":
      case "forget":
        this.links.hear(member.process, event, member)
        return
      case "stats":
        this.#options.onStats?.(event.stats)
        return
      case "uncached":
        this.#news.uncached(event.reason)
        return
      case "closed":
        this.#onClosed(member, event)
    }
  }

  #onReady(
    member: Member,
    { devices, repacked, sandbox: report }: Extract<SessionEvent, { event: "ready" }>,
  ): void {
    member.ready = true
    this.#idle.push(member)
    const { cache, models } = this.#options.config
    const folders = [...(cache === undefined ? [] : [cache.folder]), ...(models?.folders ?? [])]
    const sandbox = this.#news.sandbox(report, folders)
    this.#started?.({ devices, repacked, sandbox })
    this.#serve()
    this.#trimSurplus()
  }

  /** A client's connection is over, and so is the process if that `isSpent`. */
  #over(
    member: Member,
    isSpent: boolean,
    how:
      | { kind: "left" | "refused" | "failed"; reason: string; summary?: SessionSummary }
      | { kind: "died"; reason: string; command?: string },
  ): void {
    const { address, since } = member
    if (how.kind !== "left") this.#costs.countTrouble(address, isSpent)
    this.#options.onEvent({
      client: nameOf(member),
      address,
      seconds: secondsSince(since),
      ...how,
    })
  }

  #onClosed(member: Member, event: ClosedEvent): void {
    this.links.forget(member.process)
    this.#versions.ended(member.address, member.offer, event)
    this.#options.onStats?.(event.stats)
    const { reason: kind, message: reason, summary } = event
    this.#over(member, !event.again, { kind, reason, summary })
    member.closed = true
    if (!event.again) return
    member.client = undefined
    member.closed = false
    member.idleSince = Date.now()
    this.#freedAt = performance.now()
    // Most recently used first: its memory is warm, and the others get old enough to end.
    this.#idle.unshift(member)
    this.#serve()
    this.#trimSurplus()
  }

  /** Ends processes that nobody takes, after a while. */
  #trimSurplus(): void {
    if (this.#idle.length <= this.#options.spareCount || this.#surplusTimer !== undefined) return
    this.#surplusTimer = setTimeout(() => {
      this.#surplusTimer = undefined
      const old = Date.now() - SURPLUS_IDLE_MS
      while (this.#idle.length > this.#options.spareCount && this.#idle.at(-1)!.idleSince <= old) {
        this.#idle.pop()!.process.stop()
      }
      this.#trimSurplus()
    }, SURPLUS_IDLE_MS)
    this.#surplusTimer.unref()
  }

  #bury(member: Member, exit: SessionExit): void {
    this.#members.remove(member)
    this.links.forget(member.process)
    const index = this.#idle.indexOf(member)
    if (index >= 0) this.#idle.splice(index, 1)
    if (this.#closing) return
    const died = member.failure ?? describeExit(exit, this.#oomWatch.hasKilled())
    if (!member.ready && this.#started !== undefined) {
      this.#started({ kind: "died", reason: died })
      return
    }
    if (member.client === undefined) {
      if (exit.exitCode !== 0) this.#log("error", `a waiting session died: ${oneLine(died)}`)
    } else if (exit.exitCode === CLIENT_GONE_EXIT) {
      this.#over(member, true, { kind: "left", reason: "while a request of it was running" })
    } else if (exit.exitCode !== 0 || !member.closed) {
      const command = this.#members.lastCommand(member)
      const where = command === undefined ? {} : { command }
      this.#over(member, true, { kind: "died", reason: died, ...where })
    }
    if (member.ready) {
      this.#serve()
      this.#keepSpare(member.address)
      return
    }
    // After a death at the start no other process is tried for the same client: that would repeat for ever.
    this.#room.turnAwayNext(member.address, `no session process (${died})`)
    this.#serve()
  }
}

/** What it says may come before it was told of its client. */
const peerOf = (member: Member): Peer => ({
  ...{ client: nameOf(member), host: member.host, address: member.address },
})

const nameOf = ({ client }: Member): ClientName => client ?? "unknown client"

const secondsSince = (ms: number): number => (performance.now() - ms) / 1000
