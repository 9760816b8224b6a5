import { readSync } from "node:fs"

/** What the front process writes down for the sessions to tell: numbers of the server, and nothing of its clients but which processes serve them. */
export interface ServerReport {
  /** Version of this package. */
  readonly software: string
  /** Milliseconds since 1970. */
  readonly startedAtMs: number
  /** Ids of the processes that serve a client. */
  readonly serving: readonly number[]
  readonly waitingCount: number
  readonly maxClients: number
  /** Connections that a session served since the start. */
  readonly servedCount: number
  readonly cache?: CacheReport
}

export interface CacheReport {
  readonly fileCount: number
  readonly sizeBytes: number
  readonly limitBytes: number
  /** Weights that clients asked for since the start, and the cache had or had not. */
  readonly hits: number
  readonly misses: number
}

/** A report at most; the ids of 4096 processes are 32 KiB. */
export const MAX_REPORT_BYTES = 64 * 1024

/** Ends a report: behind it may be what is left of a longer one. */
export const REPORT_END = "\n"

const ATTEMPTS = 5

/** The report in a file, which is read while it is written; undefined when there is none. */
export const readReport = (descriptor: number): ServerReport | undefined => {
  const bytes = new Uint8Array(MAX_REPORT_BYTES)
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    try {
      const got = readSync(descriptor, bytes, 0, bytes.length, 0)
      const text = new TextDecoder().decode(bytes.subarray(0, got))
      return JSON.parse(text.slice(0, text.indexOf(REPORT_END))) as ServerReport
    } catch {
      // Half of it was the one before, then.
      Bun.sleepSync(1)
    }
  }
  return undefined
}
