/** Reasons to end before the work is done: signals, and a reader of stdout that went away. */
import { onBrokenPipe } from "./terminal.ts"

/** Exit codes as shells count processes that a signal ended. */
export const exitCodes = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143, SIGPIPE: 141 } as const

export interface EarlyEnd {
  /** The exit code that the first reason asks for; undefined while there is none. */
  readonly code: () => number | undefined
  /** Calls back at the first reason, at once when there was one. */
  readonly onRequest: (callback: () => void) => void
}

/** Listens from now on. A second signal ends the process where it stands. */
export const watchForEarlyEnd = (): EarlyEnd => {
  let code: number | undefined
  let callback: (() => void) | undefined
  const request = (wanted: number): void => {
    if (code !== undefined) return
    code = wanted
    callback?.()
  }
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      if (code !== undefined && code !== exitCodes.SIGPIPE) process.exit(exitCodes[signal])
      request(exitCodes[signal])
    })
  }
  onBrokenPipe(() => request(exitCodes.SIGPIPE))
  return {
    code: () => code,
    onRequest: (wanted) => {
      callback = wanted
      if (code !== undefined) wanted()
    },
  }
}
