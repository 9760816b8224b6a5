import {
  Command,
  describeCommand,
  ExtensionCommand,
  formatVersion,
  type LostPeer,
} from "@ggml-rpc/protocol"
import { acknowledge, answerHello } from "./answers.ts"
import { handlers } from "./commands/table.ts"
import type { SessionSummary } from "./events.ts"
import type { HandedConnection } from "./handOver.ts"
import { choose, hasCaps } from "./offer.ts"
import { type SessionOptions, SessionState } from "./SessionState.ts"
import type { StatsCounts } from "./SessionStats.ts"
import { spokenOf } from "./spoken.ts"

/** While a client works, what it does is told this often. */
const STATS_INTERVAL_MS = 5000

/** Commands from here on are ours alone. */
const FIRST_EXTENSION = ExtensionCommand.DEVICE_SUPPORTS

/** These wait for other devices themselves, where they have to. */
const isGraph = (command: number): boolean =>
  command === Command.GRAPH_COMPUTE || command === Command.GRAPH_RECOMPUTE

/** Serves clients one after another; `serve` handles one connection from HELLO to its end. */
export class Session {
  readonly #options: SessionOptions
  readonly #state: SessionState
  /** Payload bytes of the HELLO that was answered last: what there is to tell of the client's version. */
  helloBytes: number | undefined
  /** Whether the client went on after HELLO, so that the version suits it. */
  hasAsked = false
  /** It used a command of ours. */
  #isOurs = false
  #receivedBytes = 0
  #sentBytes = 0
  #toldMs = performance.now()

  constructor(options: SessionOptions) {
    this.#options = options
    this.#state = new SessionState(options)
  }

  /** Makes ready for another client; false when only the end of the process removes all of the last one. */
  renew(): boolean {
    if (this.#state.isSpent) return false
    this.#state.forget()
    return true
  }

  /**
   * Serves a client until it leaves, in a version of its offer.
   *
   * @throws {ClientGone} when it left; every session ends by an error
   * @throws {ProtocolError} when it sent what it must not send
   * @throws {ComputeError} when ggml failed
   */
  serve({ fd, offer, early }: HandedConnection): never {
    const state = this.#state
    const { wire } = state
    this.helloBytes = undefined
    this.hasAsked = false
    this.#isOurs = false
    this.#receivedBytes = 0
    this.#sentBytes = 0
    const helloBytes = wire.open(fd, early)
    this.#options.onRequest?.(wire.command, wire.sizeBytes)
    state.speak(spokenOf(choose(offer, helloBytes), hasCaps(helloBytes)))
    this.helloBytes = helloBytes
    answerHello(state)
    wire.next()
    this.hasAsked = true
    const { stats } = wire
    const { doing } = state
    for (;;) {
      const { command } = wire
      doing[0] = command + 1
      if (command >= FIRST_EXTENSION) this.#isOurs = true
      const startedMs = performance.now()
      this.#handle(state)
      const endedMs = performance.now()
      stats.note(command, endedMs - startedMs)
      if (endedMs - this.#toldMs > STATS_INTERVAL_MS) this.#tellStats(endedMs)
      if (state.largePages.hasWork && !state.isRunning) state.largePages.work(wire)
      wire.next()
    }
  }

  #handle(state: SessionState): void {
    const { wire } = state
    const { command } = wire
    this.#options.onRequest?.(command, wire.sizeBytes)
    if (state.isRunning && !isGraph(command)) state.settleAll()
    handlers[command]!(state)
    const sizeBytes = state.spoken.acknowledgementBytes[command]!
    if (sizeBytes >= 0) acknowledge(wire, sizeBytes)
  }

  /** Tells the client which other server it was that ended its session, if one was; sent by `flush`. */
  blame(lost: LostPeer | undefined): void {
    if (lost !== undefined) this.#state.wire.lastWord(lost)
  }

  /** Sends the answers that wait, as far as the client still takes them. */
  flush(): void {
    this.#state.wire.flush()
  }

  #tellStats(nowMs: number): void {
    this.#toldMs = nowMs
    this.#options.onStats?.({ event: "stats", stats: this.takeStats() })
  }

  /** What was counted since the last time. */
  takeStats(): StatsCounts {
    const stats = this.#state.wire.stats.take()
    this.#receivedBytes += stats.receivedBytes
    this.#sentBytes += stats.sentBytes
    return stats
  }

  /** What the client that was served last was and had, of what `takeStats` gave. */
  summary(): SessionSummary {
    const { spoken, buffers } = this.#state
    return {
      version: formatVersion(spoken.spec.version),
      isOurs: this.#isOurs,
      receivedBytes: this.#receivedBytes,
      sentBytes: this.#sentBytes,
      peakBytes: buffers.peakBytes,
    }
  }

  /** The command that was being handled, for a log line. */
  get commandName(): string {
    return describeCommand(this.#state.wire.command)
  }
}
