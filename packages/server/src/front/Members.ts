import { describeCommand } from "@ggml-rpc/protocol"
import { clearDoing, lastCommandOf } from "../session/Doing.ts"
import type { SessionConfig } from "../session/events.ts"
import { firstOffer, type Offer } from "../session/offer.ts"
import type { ClientName } from "./ClientEvents.ts"
import { type SessionListener, SessionProcess } from "./SessionProcess.ts"

/** How long a process may take to end by itself when the server closes. */
const STOP_TIMEOUT_MS = 2_000

/** A session process as the pool knows it. */
export interface Member {
  readonly process: SessionProcess
  /** See `SessionConfig.slot`. */
  readonly slot: number
  /** The client it serves; undefined while it starts or waits. */
  client: ClientName | undefined
  /** The address of that client, or of the one for which it was started. */
  address: string
  /** The same as the socket shows it: see `Peer`. */
  host: string
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

export interface MembersOptions {
  readonly config: Omit<SessionConfig, "describe" | "slot">
  /** Descriptors of the files that session processes share, in the order they expect. */
  readonly shared: readonly number[]
  /** That of the file in which each writes what it does; see `Doing`. */
  readonly doing: number
}

/** The session processes that live. */
export class Members {
  readonly #options: MembersOptions
  readonly #listener: SessionListener
  readonly #byProcess = new Map<SessionProcess, Member>()

  constructor(options: MembersOptions, listener: SessionListener) {
    this.#options = options
    this.#listener = listener
  }

  /** Starts a process that waits for a client; returns what went wrong, if anything. */
  start(address: string, describe: boolean): string | undefined {
    try {
      const slot = this.#freeSlot()
      const { config, shared, doing } = this.#options
      clearDoing(doing, slot)
      const process = new SessionProcess(
        { ...config, describe, slot },
        [...shared, doing],
        this.#listener,
      )
      this.#byProcess.set(process, {
        process,
        slot,
        client: undefined,
        address,
        host: "",
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
    const taken = new Set([...this.#byProcess.values()].map(({ slot }) => slot))
    let slot = 0
    while (taken.has(slot)) slot++
    return slot
  }

  /** The command that a process began last, also when it is dead. */
  lastCommand({ slot }: Member): string | undefined {
    const command = lastCommandOf(this.#options.doing, slot)
    return command === undefined ? undefined : describeCommand(command)
  }

  of(process: SessionProcess): Member | undefined {
    return this.#byProcess.get(process)
  }

  remove(member: Member): void {
    this.#byProcess.delete(member.process)
  }

  #count(is: (member: Member) => boolean): number {
    let count = 0
    for (const member of this.#byProcess.values()) if (is(member)) count++
    return count
  }

  /** How many serve a client, or did and end now. */
  get servingCount(): number {
    return this.#count(({ client }) => client !== undefined)
  }

  /** Ids of those that serve a client. */
  get servingPids(): readonly number[] {
    return [...this.#byProcess.values()].flatMap(({ client, closed, process }) =>
      client !== undefined && !closed ? process.pid : [],
    )
  }

  /** Whether one serves a client, which may leave without having left anything behind. */
  get mayGetFree(): boolean {
    return this.#count(({ client, closed }) => client !== undefined && !closed) > 0
  }

  get startingCount(): number {
    return this.#count(({ ready }) => !ready)
  }

  /** How many start for an address. */
  startingCountFor(address: string): number {
    return this.#count((member) => !member.ready && member.address === address)
  }

  get pids(): readonly number[] {
    return [...this.#byProcess.keys()].map(({ pid }) => pid)
  }

  /** Ends all of them, those that do not end by themselves as well. */
  async end(): Promise<void> {
    const processes = [...this.#byProcess.keys()]
    for (const process of processes) process.stop()
    const kill = setTimeout(() => {
      for (const process of processes) process.kill()
    }, STOP_TIMEOUT_MS)
    await Promise.all(processes.map(({ ended }) => ended))
    clearTimeout(kill)
  }
}
