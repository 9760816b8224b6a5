/** Reasons to end before the work is done: signals, and a stdout that takes nothing any more. */
import { readFileSync } from "node:fs"
import { errorText } from "./failureText.ts"
import { noteLine, onBrokenOutput } from "./terminal.ts"

/** Exit codes as shells count processes that a signal ended. */
const exitCodes = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143, SIGPIPE: 141 } as const

export interface EarlyEndReason {
  readonly exitCode: number
  /** Somebody asked for it, as by Ctrl-C. */
  readonly isSignal: boolean
}

export interface EarlyEnd {
  /** The first reason; undefined while there is none. */
  readonly reason: () => EarlyEndReason | undefined
  /** Calls back at the first reason, at once when there was one. */
  readonly onRequest: (callback: () => void) => void
}

/**
 * A signal that comes so soon after the first is the same one: a terminal sends it to all its processes, and `bunx`,
 * which is one of them, passes it on.
 */
const SAME_SIGNAL_MS = 500

/** Whether whoever started this program wants it to outlive its terminal, as `nohup` does. */
const ignoresHangUp = (): boolean => {
  try {
    const [, ignored] = /^SigIgn:\s*([0-9a-f]+)/m.exec(readFileSync("/proc/self/status", "utf8"))!
    return (Number.parseInt(ignored!.slice(-1), 16) & 1) === 1
  } catch {
    return false
  }
}

/** Listens from now on. A second signal ends the process where it stands. */
export const watchForEarlyEnd = (): EarlyEnd => {
  let reason: EarlyEndReason | undefined
  let callback: (() => void) | undefined
  let signalledAt: number | undefined
  const request = (wanted: EarlyEndReason): void => {
    if (reason !== undefined) return
    reason = wanted
    callback?.()
  }
  const isHangUpIgnored = ignoresHangUp()
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    if (signal === "SIGHUP" && isHangUpIgnored) continue
    process.on(signal, () => {
      const now = performance.now()
      signalledAt ??= now
      if (now - signalledAt > SAME_SIGNAL_MS) process.exit(exitCodes[signal])
      request({ exitCode: exitCodes[signal], isSignal: true })
    })
  }
  onBrokenOutput((error) => {
    if (error.code === "EPIPE") {
      request({ exitCode: exitCodes.SIGPIPE, isSignal: false })
      return
    }
    noteLine(errorText(`The output cannot be written (${error.message}).`))
    request({ exitCode: 1, isSignal: false })
  })
  return {
    reason: () => reason,
    onRequest: (wanted) => {
      callback = wanted
      if (reason !== undefined) wanted()
    },
  }
}
