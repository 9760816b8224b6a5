/** The log of a server on stderr. */
import type { LogEntry, LogLevel, LogSink } from "@ggml-rpc/server"
import { noteLine } from "./terminal.ts"

export const logLevels = [
  "debug",
  "info",
  "warning",
  "error",
] as const satisfies readonly LogLevel[]

export const logFormats = ["pretty", "json"] as const

export type LogFormat = (typeof logFormats)[number]

/** `12:30:05 warning: text`; what is as usual needs no word for it. */
export const logLine = (time: Date, level: string, message: string): string =>
  `${time.toTimeString().slice(0, 8)} ${level === "info" ? "" : `${level}: `}${message}`

/** One object a line: time, level, message, and what is known of the client that it is about. */
const jsonLine = (time: Date, { level, message, event, address }: LogEntry): string => {
  const { kind, ...fields } = event ?? { kind: undefined }
  return JSON.stringify({
    time: time.toISOString(),
    level,
    message,
    ...(kind === undefined ? {} : { event: kind }),
    ...(address === undefined ? {} : { address }),
    ...fields,
  })
}

/** Writes lines of a level and those above it. */
export const serverLog = (format: LogFormat, least: LogLevel): LogSink => {
  const leastIndex = logLevels.indexOf(least)
  return (entry) => {
    if (logLevels.indexOf(entry.level) < leastIndex) return
    const now = new Date()
    noteLine(format === "json" ? jsonLine(now, entry) : logLine(now, entry.level, entry.message))
  }
}
