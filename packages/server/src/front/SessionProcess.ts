import { io, socketPair } from "@ggml-rpc/native/bindings"
import { Worker, type WorkerExit } from "@ggml-rpc/native/worker"
import type { SessionConfig, SessionEvent, SessionSummary } from "../session/events.ts"
import { type HandedConnection, handOver, sendNote } from "../session/handOver.ts"
import type { LinkingSession } from "./PeerLinks.ts"

/** Lines that are kept for the log line about a death. */
const KEPT_LINES = 8

/** Events are short, but for a list of devices; what a client makes of its session shall not fill this process. */
const MAX_EVENT_BYTES = 64 * 1024

/** Exit code of a process whose graph ran longer than it may, and did not stop; the shim's `io_limit_compute`. */
const OVERDUE_EXIT = 4

/** How a session process ended. */
export interface SessionExit extends Omit<WorkerExit, "lastWords"> {
  /** What ggml or the runtime said last; "" when nothing. */
  readonly lastWords: string
}

export interface SessionListener {
  readonly onEvent: (session: SessionProcess, event: SessionEvent) => void
  /** A line on stderr, as it comes. */
  readonly onLine: (session: SessionProcess, line: string) => void
  /** Once, after the last event. */
  readonly onExit: (session: SessionProcess, exit: SessionExit) => void
}

/** The front's end of one session process: hands it connections, and hears what it says. */
export class SessionProcess implements LinkingSession {
  readonly #worker: Worker<SessionEvent>
  #channel: number
  #isReady = false
  /** Whether it serves a client, and whether it must not get another one. */
  #hasClient = false
  #isSpent = false
  /** What it said that no session says. */
  #offence: string | undefined
  /** Settles when the process is gone and its last event was told. */
  readonly ended: Promise<void>

  /**
   * `shared` are descriptors of files that all session processes have in common.
   *
   * @throws {Error} when the system refuses a new process or socket
   */
  constructor(config: SessionConfig, shared: readonly number[], listener: SessionListener) {
    const [front, back] = socketPair()
    try {
      this.#worker = new Worker<SessionEvent>(
        {
          module: "@ggml-rpc/server/session",
          from: import.meta.dir,
          args: [JSON.stringify(config)],
          descriptors: [back, ...shared],
          maxMessageBytes: MAX_EVENT_BYTES,
          lastWordsCount: KEPT_LINES,
        },
        {
          onMessage: (event) => this.#hear(event, listener),
          onLine: (line) => listener.onLine(this, line),
          onExit: (exit) => {
            this.stop()
            listener.onExit(this, { ...exit, lastWords: this.#offence ?? lastWordsOf(exit) })
          },
        },
      )
    } catch (error) {
      io().io_close(front)
      throw error
    } finally {
      io().io_close(back)
    }
    this.#channel = front
    this.ended = this.#worker.ended
  }

  /** A process that its client has taken over may say anything: one that is caught at it is ended, and nothing comes of it. */
  #hear(event: SessionEvent, listener: SessionListener): void {
    if (this.#offence !== undefined) return
    try {
      this.#check(event)
      listener.onEvent(this, event)
    } catch (error) {
      const what = error instanceof Error ? error.message : String(error)
      this.#offence = `ended for what no session says: ${what}`
      this.kill()
    }
  }

  /** @throws {Error} when a session does not say that, or not now */
  #check(event: SessionEvent): void {
    if (event.event === "ready") {
      if (this.#isReady) throw new Error("it is ready once more")
      this.#isReady = true
    }
    if (event.event === "spent") this.#isSpent = true
    if (event.event === "expect" || event.event === "dial") {
      if (!this.#hasClient) throw new Error("it wants a link without a client")
      if (!this.#isSpent) throw new Error("it wants a link, and might have another client after")
    }
    if (event.event !== "closed") return
    checkSummary(event.summary)
    if (!this.#hasClient) throw new Error("a client of it left that it did not have")
    if (event.again && this.#isSpent)
      throw new Error("it wants another client, after this one's graphs")
    this.#hasClient = false
  }

  get pid(): number {
    return this.#worker.pid
  }

  /** See `handOver`. */
  send(connection: HandedConnection): string {
    this.#hasClient = true
    return handOver(this.#channel, connection)
  }

  /** Tells it what became of a link; see `sendNote`. */
  note(id: number, status: number, fd = -1): void {
    if (this.#channel < 0) return
    // A channel that takes no more is of no use: its session does not wait for what it asked.
    if (sendNote(this.#channel, { id, status, fd }) !== "") this.stop()
  }

  /** Ends the process at once, whatever it does: it watches for the end of this channel. */
  stop(): void {
    if (this.#channel < 0) return
    io().io_close(this.#channel)
    this.#channel = -1
  }

  /** For a process that `stop` did not end. */
  kill(): void {
    this.#worker.kill("SIGKILL")
  }
}

/** @throws {Error} when these are no numbers to count with, and no version to name */
const checkSummary = ({ version, receivedBytes, sentBytes, peakBytes }: SessionSummary): void => {
  if (![receivedBytes, sentBytes, peakBytes].every((count) => Number.isFinite(count))) {
    throw new Error("its client's bytes are no numbers")
  }
  if (typeof version !== "string") throw new Error("its client's version is no text")
}

/** ggml's own message about the death where there is one. */
const lastWordsOf = ({ lastWords }: WorkerExit): string =>
  lastWords.findLast((line) => /^ggml (abort|crash): /.test(line)) ?? lastWords.join(" | ")

/** For the log. `wasMemoryShort`: the system ended a process for want of memory meanwhile. */
export const describeExit = (exit: SessionExit, wasMemoryShort: boolean): string => {
  if (exit.signal === "SIGKILL" && wasMemoryShort) {
    return "the system's memory was short, and it ended the process (SIGKILL): --mem-limit keeps some free"
  }
  if (exit.exitCode === OVERDUE_EXIT) {
    return "a graph of its client ran for longer than a graph may (--max-compute-seconds), and did not stop"
  }
  if (exit.signal === "SIGSYS") {
    return "its sandbox ended it, for a system call that serving a client never takes (SIGSYS): what this client sends may be an attack"
  }
  const how = exit.signal === null ? `exit code ${exit.exitCode}` : exit.signal
  return exit.lastWords === "" ? how : `${exit.lastWords} (${how})`
}
