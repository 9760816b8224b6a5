import type { ClientEvent } from "./ClientEvents.ts"

export type LogLevel = "debug" | "info" | "warning" | "error"

/** One line of the server's log; `message` has no line break. */
export interface LogEntry {
  readonly level: LogLevel
  readonly message: string
  /** Of the client that it is about, as limits count it: lines that differ in numbers alone are of one kind then. */
  readonly address?: string
  /** What happened to that client, where the line is about one event. */
  readonly event?: ClientEvent
}

/** Takes the server's log. Must not throw. */
export type LogSink = (entry: LogEntry) => void

/** Text from a client or a library as part of one log line: no line breaks, no control characters. */
export const oneLine = (text: string): string =>
  text
    .trim()
    .replace(/\s*\n\s*/g, " | ")
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
    .replace(/[\u0000-\u001f\u007f-\u009f]/g, "?")
