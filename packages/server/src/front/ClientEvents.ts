/** What happens to connections, for the log and for whoever counts. */
import { formatBytes } from "@ggml-rpc/native/bindings"
import type { SessionSummary } from "../session/events.ts"
import { type LogLevel, type LogSink, oneLine } from "./log.ts"

/** A client as the log names it: `address:port`. */
export type ClientName = string

/** Whom an event is about. */
interface AboutClient {
  readonly client: ClientName
  /** As limits count it; see `rememberedAddress`. */
  readonly address: string
}

export type ClientEvent = AboutClient & ClientHappening

type ClientHappening =
  /** A process serves it; `helloBytes` are those of its HELLO. */
  | { readonly kind: "came"; readonly pid: number; readonly helloBytes: number }
  /** Its connection is over; `failed` says that ggml failed. */
  | {
      readonly kind: "left" | "refused" | "failed"
      readonly reason: string
      readonly seconds: number
      /** Absent where no session served it. */
      readonly summary?: SessionSummary
    }
  /** Its session process ended under it. */
  | {
      readonly kind: "died"
      readonly reason: string
      readonly seconds: number
      /** The request that was under way, or the last one. */
      readonly command?: string
    }
  /** It got no session. */
  | { readonly kind: "turned away"; readonly reason: string }

/** Must not throw. */
export type ClientEventSink = (event: ClientEvent) => void

const levels = {
  came: "info",
  left: "info",
  refused: "error",
  failed: "error",
  died: "error",
  "turned away": "warning",
} as const satisfies Record<ClientEvent["kind"], LogLevel>

/** How long a client was there, and what it had. One that had nothing is another kind of line, see `RepeatCounter`. */
const stay = ({ seconds, summary }: { seconds: number; summary?: SessionSummary }): string => {
  const after = `after ${seconds.toFixed(1)} s`
  if (summary === undefined) return after
  const { version, isOurs, receivedBytes, sentBytes, peakBytes } = summary
  const who = `${isOurs ? "ggml-rpc, " : ""}protocol ${oneLine(version)}`
  const had =
    peakBytes === 0
      ? "no buffers"
      : `${formatBytes(receivedBytes)} received, ${formatBytes(sentBytes)} sent, at most ${formatBytes(peakBytes)} of buffers`
  return `${after}, ${who}, ${had}`
}

const describe = (event: ClientEvent): string => {
  switch (event.kind) {
    case "came":
      return `${event.client} connected (process ${event.pid})`
    case "left":
      return `${event.client} left (${oneLine(event.reason)}, ${stay(event)})`
    case "refused":
    case "failed":
      return `${event.client} disconnected: ${oneLine(event.reason)} (${stay(event)})`
    case "died": {
      const where = event.command === undefined ? "" : `in ${event.command}, `
      return `session of ${event.client} died: ${oneLine(event.reason)} (${where}${stay(event)})`
    }
    case "turned away":
      return `${event.client} turned away: ${oneLine(event.reason)}`
  }
}

/** Writes one line for each event. */
export const logEvents =
  (log: LogSink): ClientEventSink =>
  (event) =>
    log({ level: levels[event.kind], message: describe(event), address: event.address, event })
