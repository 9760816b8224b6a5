/** What happens to connections, for the log and for whoever counts. */
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
    }
  /** Its session process ended under it. */
  | {
      readonly kind: "died"
      readonly reason: string
      readonly seconds: number
    }
  /** It got no session. */
  | { readonly kind: "turned away"; readonly reason: string }

/** Must not throw. */
export type ClientEventSink = (event: ClientEvent) => void

const levels = {
  came: "debug",
  left: "debug",
  refused: "error",
  failed: "error",
  died: "error",
  "turned away": "warning",
} as const satisfies Record<ClientEvent["kind"], LogLevel>

const describe = (event: ClientEvent): string => {
  switch (event.kind) {
    case "came":
      return `${event.client} connected (process ${event.pid})`
    case "left":
      return `${event.client} left (${oneLine(event.reason)})`
    case "refused":
    case "failed":
      return `${event.client} disconnected: ${oneLine(event.reason)}`
    case "died":
      return `session of ${event.client} died: ${oneLine(event.reason)}`
    case "turned away":
      return `${event.client} turned away: ${oneLine(event.reason)}`
  }
}

/** Writes one line for each event. */
export const logEvents =
  (log: LogSink): ClientEventSink =>
  (event) =>
    log({ level: levels[event.kind], message: describe(event), address: event.address, event })
