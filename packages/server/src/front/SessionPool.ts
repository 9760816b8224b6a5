import { io, ioErrorText } from "@ggml-rpc/native/bindings"
import type { DeviceReport, LinkEvent, SessionConfig, SessionEvent } from "../session/events.ts"
import { firstOffer, type Offer } from "../session/offer.ts"
import type { Admitted } from "./Admission.ts"
import type { ClientEventSink, ClientName } from "./ClientEvents.ts"
import { freeWaitingServer } from "./freeWaitingServer.ts"
import { type LogLevel, type LogSink, oneLine } from "./log.ts"
import { type SessionExit, type SessionListener, SessionProcess } from "./SessionProcess.ts"
import { describeSandbox } from "./sandboxText.ts"
import { describeNews, type SavedOffers, VersionOffers } from "./VersionOffers.ts"

export interface PoolOptions {
  readonly config: Omit<SessionConfig, "describe" | "slot">
  /** Clients served at the same time. */
  readonly maxSessions: number
  /** Session processes that wait for a client. */
  readonly spareCount: number
  readonly log: LogSink
  readonly onEvent: ClientEventSink
  /** What works for the clients of some addresses; `onOffers` gets it again when there is news. */
  readonly savedOffers?: SavedOffers
  readonly onOffers?: (offers: SavedOffers) => void
  /** Descriptors of the files that session processes share, in the order they expect. */
  readonly shared: readonly number[]
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
 * Such a client opens its next connection before it closes the last one. So when no process waits, a
 * connection waits this long for one to get free before another process is started for it.
 */
const REUSE_WAIT_MS = 4

/** Surplus processes, left over from a burst, end after waiting this long. */
const SURPLUS_IDLE_MS = 5_000

/** How long a process may take to end by itself when the server closes. */
const STOP_TIMEOUT_MS = 2_000

/** Exit code of a process whose client left during a long operation; the shim's `io_watch_client`. */
const CLIENT_GONE_EXIT = 3

/** More reasons than these are those of one file each. */
const MAX_CACHE_REASONS = 8

interface Member {
  readonly process: SessionProcess
  /** See `SessionConfig.slot`. */
  readonly slot: number
  /** The client it serves; undefined while it waits. */
  client: ClientName | undefined
  /** The address of that client, as limits and versions count it. */
  address: string
  /** When it came. */
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

/** A connection that waits for a process. `fd` is the pool's own copy. */
interface Waiting extends Admitted {
  readonly timer: ReturnType<typeof setTimeout>
}

/** The session processes of a server: hands each client to one, and keeps spares warm. */
export class SessionPool {
  readonly #options: PoolOptions
  readonly #members = new Map<SessionProcess, Member>()
  readonly #idle: Member[] = []
  readonly #waiting: Waiting[] = []
  readonly #offers: VersionOffers
  /** What `onOffers` got last. */
  #savedOffers: string
  /** Why weights were not stored in the cache. */
  readonly #uncached = new Set<string>()
  #closing = false
  #surplusTimer: ReturnType<typeof setTimeout> | undefined
  #started: ((result: Started | StartFailure) => void) | undefined
  /** Of the first process. */
  #sandbox: string | undefined

  constructor(options: PoolOptions) {
    this.#options = options
    this.#offers = new VersionOffers(options.savedOffers)
    this.#savedOffers = JSON.stringify(this.#offers.save())
  }

  /** Starts the first process and waits for its devices. */
  start(): Promise<Started | StartFailure> {
    return new Promise((resolve) => {
      this.#started = (result) => {
        this.#started = undefined
        resolve(result)
      }
      const failure = this.#spawn()
      if (failure !== undefined) this.#started({ kind: "died", reason: failure })
    })
  }

  /** Clients that are connected. */
  get clientCount(): number {
    let count = this.#waiting.length
    for (const member of this.#members.values()) if (member.client !== undefined) count++
    return count
  }

  /** Ids of all session processes. */
  get processIds(): readonly number[] {
    return [...this.#members.keys()].map((process) => process.pid)
  }

  /** Why no more clients can be served now, as a clause; undefined when they can. */
  get fullness(): string | undefined {
    const { maxSessions } = this.#options
    if (this.clientCount < maxSessions) return undefined
    const others = maxSessions === 1 ? "a client is" : `${maxSessions} clients are`
    return `${others} connected already`
  }

  /** Hands a connection to a session process. The caller closes its own copy of `fd` afterwards. */
  assign(connection: Admitted): void {
    const { fullness } = this
    if (fullness !== undefined) {
      this.#turnAway(connection, fullness)
    } else if (this.#idle.length === 0 && this.#mayGetFree()) {
      this.#wait(connection)
    } else {
      this.#give(connection)
    }
  }

  #turnAway({ client }: Admitted, reason: string): void {
    this.#options.onEvent({ kind: "turned away", client, reason })
  }

  /** Whether a process serves a client, which may leave without having allocated anything. */
  #mayGetFree(): boolean {
    for (const member of this.#members.values()) {
      if (member.client !== undefined && !member.closed) return true
    }
    return false
  }

  #wait(connection: Admitted): void {
    const copy = io().io_duplicate(connection.fd)
    if (copy < 0) {
      this.#turnAway(connection, ioErrorText(copy))
      return
    }
    const timer = setTimeout(() => {
      this.#waiting.splice(this.#waiting.indexOf(waiting), 1)
      this.#giveWaiting(waiting)
    }, REUSE_WAIT_MS)
    const waiting: Waiting = { ...connection, fd: copy, timer }
    this.#waiting.push(waiting)
  }

  #giveWaiting(waiting: Waiting): void {
    clearTimeout(waiting.timer)
    this.#give(waiting)
    io().io_close(waiting.fd)
  }

  /** Gives a connection to an idle process, or to a new one. */
  #give(connection: Admitted): void {
    const { client, address, pinned } = connection
    const failure = this.#idle.length === 0 ? this.#spawn() : undefined
    const member = this.#idle.shift()
    if (member === undefined) {
      this.#turnAway(connection, `no session process (${failure ?? ""})`)
      return
    }
    const offer = pinned === undefined ? this.#offers.next(address) : { pinned }
    const problem = member.process.send({ ...connection, offer })
    if (problem !== "") {
      // It is dying, as a rule; its exit is reported on its own.
      member.process.stop()
      this.#turnAway(connection, `the session process does not take it (${problem})`)
      return
    }
    member.client = client
    member.address = address
    member.since = performance.now()
    member.offer = offer
    this.#options.onEvent({ kind: "came", client, pid: member.process.pid })
    setTimeout(() => {
      if (member.client === client) this.#keepSpare()
    }, SPARE_DELAY_MS).unref()
  }

  /** Ends all processes. */
  async close(): Promise<void> {
    this.#closing = true
    clearTimeout(this.#surplusTimer)
    for (const { fd, timer } of this.#waiting.splice(0)) {
      clearTimeout(timer)
      io().io_close(fd)
    }
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

  /** Starts a process that waits for a client; returns what went wrong, if anything. */
  #spawn(): string | undefined {
    try {
      const describe = this.#started !== undefined
      const slot = this.#freeSlot()
      const { config, shared } = this.#options
      const process = new SessionProcess({ ...config, describe, slot }, shared, this.#listener)
      const member: Member = {
        process,
        slot,
        client: undefined,
        address: "",
        since: 0,
        offer: firstOffer,
        ready: false,
        closed: false,
        idleSince: Date.now(),
        failure: undefined,
      }
      this.#members.set(process, member)
      // A connection may be sent before the process is ready: it waits in the channel.
      this.#idle.push(member)
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

  #keepSpare(): void {
    if (this.#closing) return
    while (this.#idle.length < this.#options.spareCount) {
      const failure = this.#spawn()
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
        member.ready = true
        this.#onReady(event)
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
        this.#onLink(member, event)
        return
      case "uncached":
        this.#onUncached(event.reason)
        return
      case "closed":
        this.#onClosed(member, event)
    }
  }

  #onReady({ devices, sandbox: report }: Extract<SessionEvent, { event: "ready" }>): void {
    const sandbox = describeSandbox(report, this.#options.config.cache?.folder)
    this.#sandbox ??= sandbox
    // Threads that did not answer in time, for one.
    if (sandbox !== this.#sandbox) this.#log("warning", `a session process has ${sandbox}`)
    this.#started?.({ devices, sandbox })
  }

  #onLink(member: Member, event: LinkEvent): void {
    const client = member.client ?? "unknown client"
    if (event.event === "linked") {
      this.#log("info", `${client} linked this server with ${oneLine(event.peer)}`)
      return
    }
    if (event.event === "unlinked") {
      this.#log("warning", `${client} wants a link to another server: ${oneLine(event.reason)}`)
      return
    }
    const { host, port } = event
    const problem = freeWaitingServer(host, port, member.address)
    if (problem === undefined) return
    this.#log(
      "warning",
      `${client} wants a link to ${oneLine(host)}:${port}, which this server does not make (--allow-comm), nor does it dial that server to free it (${problem}): start the client with GGML_RPC_NO_COMM=1 if it hangs`,
    )
  }

  /** Once for each reason: it holds for all that comes. */
  #onUncached(reason: string): void {
    if (this.#uncached.has(reason) || this.#uncached.size === MAX_CACHE_REASONS) return
    this.#uncached.add(reason)
    this.#log("warning", `the cache does not take all weights: ${oneLine(reason)}`)
  }

  /** Another client may need another version of the protocol. */
  #noteVersion(member: Member, event: Extract<SessionEvent, { event: "closed" }>): void {
    const { helloBytes, hasAsked, reason } = event
    if (member.client === undefined || helloBytes === undefined) return
    if (!hasAsked && reason !== "left") return
    const { address } = member
    const news = this.#offers.ended(address, member.offer, { helloCaps: helloBytes > 0, hasAsked })
    if (news !== undefined) {
      this.#log(news.kind === "works" ? "info" : "warning", describeNews(address, news))
    }
    if (!hasAsked || this.#options.onOffers === undefined) return
    const saved = JSON.stringify(this.#offers.save())
    if (saved === this.#savedOffers) return
    this.#savedOffers = saved
    this.#options.onOffers(this.#offers.save())
  }

  #over(member: Member, kind: "left" | "refused" | "failed" | "died", reason: string): void {
    const { client = "unknown client", since } = member
    this.#options.onEvent({ kind, client, reason, seconds: secondsSince(since) })
  }

  #onClosed(member: Member, event: Extract<SessionEvent, { event: "closed" }>): void {
    this.#noteVersion(member, event)
    this.#over(member, event.reason, event.message)
    member.closed = true
    if (!event.again) return
    member.client = undefined
    member.closed = false
    member.idleSince = Date.now()
    // Most recently used first: its memory is warm, and the others get old enough to end.
    this.#idle.unshift(member)
    const waiting = this.#waiting.shift()
    if (waiting !== undefined) this.#giveWaiting(waiting)
    if (this.#idle.length > this.#options.spareCount) this.#scheduleTrim()
  }

  #scheduleTrim(): void {
    if (this.#surplusTimer !== undefined || this.#closing) return
    this.#surplusTimer = setTimeout(() => {
      this.#surplusTimer = undefined
      const old = Date.now() - SURPLUS_IDLE_MS
      while (this.#idle.length > this.#options.spareCount && this.#idle.at(-1)!.idleSince <= old) {
        this.#idle.pop()!.process.stop()
      }
      if (this.#idle.length > this.#options.spareCount) this.#scheduleTrim()
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
    const { client } = member
    if (client === undefined) {
      if (exit.exitCode !== 0) this.#log("error", `a waiting session died: ${oneLine(died)}`)
    } else if (exit.exitCode === CLIENT_GONE_EXIT) {
      this.#over(member, "left", "while a request of it was running")
    } else if (exit.exitCode !== 0 || !member.closed) {
      this.#over(member, "died", died)
    }
    // Not after a death at the start: that would repeat for ever. The next client tries again.
    if (member.ready) this.#keepSpare()
  }
}

const secondsSince = (ms: number): number => (performance.now() - ms) / 1000

const describeExit = (exit: SessionExit): string => {
  if (exit.signal === "SIGSYS") {
    return "its sandbox ended it, for a system call that serving a client never takes (SIGSYS): what this client sends may be an attack"
  }
  const how = exit.signal === null ? `exit code ${exit.exitCode}` : exit.signal
  return exit.lastWords === "" ? how : `${exit.lastWords} (${how})`
}
