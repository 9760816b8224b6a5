import type { LinkEvent } from "../session/events.ts"
import type { SandboxReport } from "../session/sandbox.ts"
import type { Peer } from "./Admission.ts"
import { freeWaitingServer } from "./freeWaitingServer.ts"
import { type LogLevel, type LogSink, oneLine } from "./log.ts"
import { describeSandbox } from "./sandboxText.ts"

/** More reasons than these are those of one file each. */
const MAX_CACHE_REASONS = 8

/** Lines of the log about what sessions tell of themselves and of their clients' wishes. */
export class SessionNews {
  readonly #log: LogSink
  /** Why weights were not stored in the cache. */
  readonly #uncached = new Set<string>()

  /** Of the first process. */
  #sandbox: string | undefined

  constructor(log: LogSink) {
    this.#log = log
  }

  /** A link to another server was made, or not; one that waits for it is freed. */
  link(
    { client, host: from, address }: Pick<Peer, "client" | "host" | "address">,
    event: LinkEvent,
  ): void {
    const say = (level: LogLevel, text: string): void =>
      this.#log({ level, message: `${client} ${text}`, address })
    if (event.event === "linked") {
      say("info", `linked this server with ${oneLine(event.peer)}`)
      return
    }
    if (event.event === "unlinked") {
      say("warning", `wants a link to another server: ${oneLine(event.reason)}`)
      return
    }
    const { host, port } = event
    const problem = freeWaitingServer(host, port, from)
    if (problem === undefined) return
    say(
      "warning",
      `wants a link to ${oneLine(host)}:${port}, which this server does not make (--allow-comm), nor does it dial that server to free it (${problem}): start the client with GGML_RPC_NO_COMM=1 if it hangs`,
    )
  }

  /** What a new process lives in, which should be the same for all. */
  sandbox(report: SandboxReport | undefined, folders: readonly string[]): string {
    const sandbox = describeSandbox(report, folders)
    this.#sandbox ??= sandbox
    // Threads that did not answer in time, for one.
    if (sandbox !== this.#sandbox) {
      this.#log({ level: "warning", message: `a session process has ${sandbox}` })
    }
    return sandbox
  }

  /** Once for each reason: it holds for all that comes, whatever the file under way is called. */
  uncached(reason: string): void {
    const kind = reason.replace(/\d+/g, "0")
    if (this.#uncached.has(kind) || this.#uncached.size === MAX_CACHE_REASONS) return
    this.#uncached.add(kind)
    const message = `the cache does not take all weights: ${oneLine(reason)}`
    this.#log({ level: "warning", message })
  }
}
