import { io, ioErrorText, socketPair } from "@ggml-rpc/native/bindings"
import type { SessionConfig, SessionEvent } from "../session/events.ts"

/** By its package: this module may be part of somebody's bundle. */
const entry = Bun.resolveSync("@ggml-rpc/server/session", import.meta.dir)

/** What the runtime would do for long programs and growing heaps would take the cores from a client's graphs. */
const sessionSettings = {
  // JavaScriptCore's last compiler. What its DFG compiles is compiled before the client comes (warmUp.ts).
  BUN_JSC_useFTLJIT: "0",
  // Runs of a function before DFG takes it, a fifth of the usual: few enough for the warm-up to reach them.
  BUN_JSC_thresholdForOptimizeAfterWarmUp: "200",
  BUN_JSC_thresholdForOptimizeAfterLongWarmUp: "200",
  BUN_JSC_thresholdForOptimizeSoon: "200",
  // A thread that takes memory for a growing heap ahead of time.
  BUN_JSC_useWarmUpMarkedBlocks: "0",
  // A thread that gives freed memory of the heap back, for some megabytes; ggml's buffers are none of it.
  MIMALLOC_PURGE_DELAY: "-1",
}

/** Lines of stderr that are kept for the log line about a death. */
const KEPT_LINES = 8

/** How a session process ended. */
export interface SessionExit {
  readonly exitCode: number | null
  readonly signal: string | null
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
export class SessionProcess {
  readonly #child: Bun.Subprocess<"ignore", "pipe", "pipe">
  readonly #lines: string[] = []
  #channel: number
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
      this.#child = Bun.spawn([process.execPath, entry, JSON.stringify(config)], {
        stdio: ["ignore", "pipe", "pipe", back, ...shared],
        // As it is now, CUDA_VISIBLE_DEVICES for one: without this it is as it was at the start.
        env: { ...sessionSettings, ...process.env },
      })
    } catch (error) {
      io().io_close(front)
      throw error
    } finally {
      io().io_close(back)
    }
    this.#channel = front
    this.ended = this.#follow(listener)
  }

  get pid(): number {
    return this.#child.pid
  }

  /** Hands over a connection; the caller still owns its copy of the descriptor. "" or what went wrong. */
  send(fd: number): string {
    const result = io().io_send_descriptor(this.#channel, fd)
    return result < 0 ? ioErrorText(result) : ""
  }

  /** Ends the process at once, whatever it does: it watches for the end of this channel. */
  stop(): void {
    if (this.#channel < 0) return
    io().io_close(this.#channel)
    this.#channel = -1
  }

  /** For a process that `stop` did not end. */
  kill(): void {
    this.#child.kill("SIGKILL")
  }

  async #follow(listener: SessionListener): Promise<void> {
    const events = eachLine(this.#child.stdout, (line) => {
      const event = parseEvent(line)
      if (event === undefined) this.#keep(line)
      else listener.onEvent(this, event)
    })
    const errors = eachLine(this.#child.stderr, (line) => {
      this.#keep(line)
      listener.onLine(this, line)
    })
    await Promise.all([events, errors, this.#child.exited])
    this.stop()
    listener.onExit(this, {
      exitCode: this.#child.exitCode,
      signal: this.#child.signalCode === null ? null : String(this.#child.signalCode),
      lastWords: this.#lastWords(),
    })
  }

  #keep(line: string): void {
    if (line.trim() === "") return
    this.#lines.push(line)
    if (this.#lines.length > KEPT_LINES) this.#lines.shift()
  }

  #lastWords(): string {
    const telling = this.#lines.findLast((line) => /^ggml (abort|crash): /.test(line))
    return telling ?? this.#lines.join(" | ")
  }
}

const parseEvent = (line: string): SessionEvent | undefined => {
  if (!line.startsWith("{")) return undefined
  try {
    return JSON.parse(line) as SessionEvent
  } catch {
    return undefined
  }
}

/** A longer line is cut: libraries write here, too. */
const MAX_LINE_CHARS = 16 * 1024

const eachLine = async (
  stream: ReadableStream<Uint8Array>,
  use: (line: string) => void,
): Promise<void> => {
  const decoder = new TextDecoder()
  let rest = ""
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n")
    rest = lines.pop() ?? ""
    for (const line of lines) use(line)
    if (rest.length > MAX_LINE_CHARS) rest = rest.slice(0, MAX_LINE_CHARS)
  }
  if (rest !== "") use(rest)
}
