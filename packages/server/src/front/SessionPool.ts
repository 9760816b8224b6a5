import { availableParallelism } from "node:os"
import { io } from "@ggml-rpc/native/bindings"
import type {
  ClosedEvent,
  DeviceReport,
  SessionConfig,
  SessionEvent,
  StatsEvent,
} from "../session/events.ts"
import { firstOffer, type Offer } from "../session/offer.ts"
import { AddressCosts, type AddressRates } from "./AddressCosts.ts"
import type { Admitted } from "./Admission.ts"
import type { ClientEventSink, ClientName } from "./ClientEvents.ts"
import { ClientVersions, type ClientVersionsOptions } from "./ClientVersions.ts"
import { type LogLevel, oneLine } from "./log.ts"
import { SessionNews } from "./SessionNews.ts"
import { type SessionExit, type SessionListener, SessionProcess } from "./SessionProcess.ts"
import { WaitingRoom } from "./WaitingRoom.ts"

export interface PoolOptions extends ClientVersionsOptions {
  readonly config: Omit<SessionConfig, "describe" | "slot">
  /** Clients served at the same time, those that wait for a process included. */
  readonly maxClients: number
  /** Session processes that wait for a client. */
  readonly spareCount: number
  readonly onEvent: ClientEventSink
  readonly onStats?: (event: StatsEvent) => void
  /** Descriptors of the files that session processes share, in the order they expect. */
  readonly shared: readonly number[]
  /** What clients of one address may cost; absent: anything. */
  readonly limits: AddressRates | undefined
}

/** What the first session process tells. */
export interface Started {
  readonly devices: readonly DeviceReport[]
  /** See `describeSandbox`. */
  readonly sandbox: string
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
 * dozen connections a run that last less than a millisecond, which share one process; and a start takes
 * 0.2 s of a core, which the client needs for loading, its prompt and its first tokens. Who connects before
 * the spare is there waits that long.
 */
const SPARE_DELAY_MS = 30_000

/**
 * Such a client opens its next connection before it closes the last one. So when no process waits, one is started only when
 * a connection has waited for so long, and in all that time no process got free.
 */
const REUSE_WAIT_MS = 4

/** How long a connection that wants a process may wait for one: there may be many before it. */
const START_PATIENCE_MS = 60_000

/** Processes that start at a time. Each takes a core, and the others are for clients that are served. */
const MAX_STARTS = Math.max(1, Math.floor(availableParallelism() / 2))

/** Surplus processes, left over from a burst, end after waiting this long. */
const SURPLUS_IDLE_MS = 5_000

/** How long a process may take to end by itself when the server closes. */
const STOP_TIMEOUT_MS = 2_000

/** Exit code of a process whose client left during a long operation; the shim's `io_watch_client`. */
const CLIENT_GONE_EXIT = 3

interface Member {
  readonly process: SessionProcess
  /** See `SessionConfig.slot`. */
  readonly slot: number
  /** The client it serves; undefined while it starts or waits. */
  client: ClientName | undefined
  /** The address of that client, or of the one for which it was started. */
  address: string
  /** When its client came. */
  since: number
  /** What that client is offered. */
  offer: Offer
  /** It announced its devices. */
  ready: boolean
  /** It said that its client's connection is over. */
  closed: boolean
  idleSince: number
  /** Why it says that it ends. */
  failure: string | undefined
}

/** The session processes of a server: hands each client to one, and keeps spares warm. */
export class SessionPool {
  readonly #options: PoolOptions
  readonly #members = new Map<SessionProcess, Member>()
  readonly #idle: Member[] = []
  readonly #room: WaitingRoom
  readonly #versions: ClientVersions
  readonly #costs: AddressCosts
  readonly #news: SessionNews
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
    this.#versions = new ClientVersions(options)
    this.#costs = new AddressCosts(options.limits)
    this.#news = new SessionNews(options.log)
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
    let count = this.#room.size
    for (const member of this.#members.values()) if (member.client !== undefined) count++
    return count
  }

  /** Ids of all session processes. */
  get processIds(): readonly number[] {
    return [...this.#members.keys()].map((process) => process.pid)
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
    this.#room.add(connection, this.#mayGetFree() ? REUSE_WAIT_MS : 0)
    this.#serve()
  }

  #turnAway({ client, address }: Admitted, reason: string): void {
    this.#options.onEvent({ kind: "turned away", client, address, reason })
  }

  /** Whether a process serves a client, which may leave without having left anything behind. */
  #mayGetFree(): boolean {
    for (const member of this.#members.values()) {
      if (member.client !== undefined && !member.closed) return true
    }
    return false
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
    const { client, address, pinned } = connection
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
    if (this.#room.size === 0 || this.#startingCount >= MAX_STARTS || this.#hopeMs > 0) return
    this.#room.dropGone()
    for (;;) {
      if (this.#startingCount >= MAX_STARTS) return
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

  get #startingCount(): number {
    let count = 0
    for (const member of this.#members.values()) if (!member.ready) count++
    return count
  }

  #mayStartFor(address: string): boolean {
    let starting = 0
    for (const member of this.#members.values()) {
      if (!member.ready && member.address === address) starting++
    }
    return (
      starting < this.#room.wantingCountOf(address) &&
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
    const processes = [...this.#members.keys()]
    for (const process of processes) process.stop()
    const kill = setTimeout(() => {
      for (const process of processes) process.kill()
    }, STOP_TIMEOUT_MS)
    await Promise.all(processes.map((process) => process.ended))
    clearTimeout(kill)
  }

  #log(level: LogLevel, message: string): void {
    this.#options.log({ level, message })
  }

  /** Starts a process at the cost of an address ("": of none); returns what went wrong, if anything. */
  #spawn(address: string): string | undefined {
    if (address !== "") this.#costs.countStart(address)
    try {
      const describe = this.#started !== undefined
      const slot = this.#freeSlot()
      const { config, shared } = this.#options
      const process = new SessionProcess({ ...config, describe, slot }, shared, this.#listener)
      this.#members.set(process, {
        process,
        slot,
        client: undefined,
        address,
        since: 0,
        offer: firstOffer,
        ready: false,
        closed: false,
        idleSince: Date.now(),
        failure: undefined,
      })
      return undefined
    } catch (error) {
      return error instanceof Error ? error.message : String(error)
    }
  }

  #freeSlot(): number {
    const taken = new Set([...this.#members.values()].map(({ slot }) => slot))
    let slot = 0
    while (taken.has(slot)) slot++
    return slot
  }

  /** Has spares started at the cost of an address whose client took one, as soon as it may. */
  #keepSpare(address: string): void {
    if (this.#closing) return
    while (this.#idle.length + this.#startingCount < this.#options.spareCount) {
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
      const member = this.#members.get(process)
      if (member !== undefined) this.#hear(member, event)
    },
    onLine: (process, line) => {
      if (!this.#options.config.debug) return
      const client = this.#members.get(process)?.client
      this.#log("debug", `${client ?? `process ${process.pid}`}: ${oneLine(line)}`)
    },
    onExit: (process, exit) => {
      const member = this.#members.get(process)
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
        this.#news.link({ client: nameOf(member), address: member.address }, event)
        return
      case "stats":
        this.#options.onStats?.(event)
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
    { devices, sandbox: report }: Extract<SessionEvent, { event: "ready" }>,
  ): void {
    member.ready = true
    this.#idle.push(member)
    const sandbox = this.#news.sandbox(report, this.#options.config.cache?.folder)
    this.#started?.({ devices, sandbox })
    this.#serve()
    this.#trimSurplus()
  }

  /** A client's connection is over, and so is the process if that `isSpent`. */
  #over(
    member: Member,
    kind: "left" | "refused" | "failed" | "died",
    reason: string,
    isSpent: boolean,
  ): void {
    const { address, since } = member
    if (kind !== "left") this.#costs.countTrouble(address, isSpent)
    this.#options.onEvent({
      kind,
      client: nameOf(member),
      address,
      reason,
      seconds: secondsSince(since),
    })
  }

  #onClosed(member: Member, event: ClosedEvent): void {
    this.#versions.ended(member.address, member.offer, event)
    this.#over(member, event.reason, event.message, !event.again)
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
    this.#members.delete(member.process)
    const index = this.#idle.indexOf(member)
    if (index >= 0) this.#idle.splice(index, 1)
    if (this.#closing) return
    const died = member.failure ?? describeExit(exit)
    if (!member.ready && this.#started !== undefined) {
      this.#started({ kind: "died", reason: died })
      return
    }
    if (member.client === undefined) {
      if (exit.exitCode !== 0) this.#log("error", `a waiting session died: ${oneLine(died)}`)
    } else if (exit.exitCode === CLIENT_GONE_EXIT) {
      this.#over(member, "left", "while a request of it was running", true)
    } else if (exit.exitCode !== 0 || !member.closed) {
      this.#over(member, "died", died, true)
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
const nameOf = ({ client }: Member): ClientName => client ?? "unknown client"

const secondsSince = (ms: number): number => (performance.now() - ms) / 1000

const describeExit = (exit: SessionExit): string => {
  if (exit.signal === "SIGSYS") {
    return "its sandbox ended it, for a system call that serving a client never takes (SIGSYS): what this client sends may be an attack"
  }
  const how = exit.signal === null ? `exit code ${exit.exitCode}` : exit.signal
  return exit.lastWords === "" ? how : `${exit.lastWords} (${how})`
}
