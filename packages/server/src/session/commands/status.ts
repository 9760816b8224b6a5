import { readFileSync } from "node:fs"
import { availableParallelism, loadavg } from "node:os"
import { MAX_STATUS_BYTES } from "@ggml-rpc/protocol"
import { attempt } from "../../cache/files.ts"
import type { SessionState } from "../SessionState.ts"

/** Longest name and description of a device. */
const MAX_TEXT = 128

/** STATUS: how the server is, as far as the front process told it, and how this machine and its devices are. */
export const status = (state: SessionState): void => {
  const { wire } = state
  const bytes = new TextEncoder().encode(JSON.stringify(statusOf(state)))
  // Only more devices than a client takes would be so much.
  const told = bytes.length <= MAX_STATUS_BYTES ? bytes : new TextEncoder().encode("{}")
  const at = wire.answer(told.length)
  new Uint8Array(wire.out.buffer, wire.out.byteOffset + at, told.length).set(told)
}

const statusOf = (state: SessionState) => {
  const report = state.report()
  return {
    ...(report && {
      software: report.software,
      uptimeMs: Math.max(0, Date.now() - report.startedAtMs),
      // Who asks is not counted.
      clientCount: report.waitingCount + report.serving.filter((pid) => pid !== process.pid).length,
      maxClients: report.maxClients,
      servedCount: report.servedCount,
      ...(report.cache && { cache: report.cache }),
    }),
    load: { average: loadAverage(), coreCount: availableParallelism() },
    devices: state.devices.map(({ device }) => ({
      name: device.name.slice(0, MAX_TEXT),
      description: device.description.slice(0, MAX_TEXT),
    })),
  }
}

/** Processes that ran or wanted to in the last minute, on average. A file where there is one: it is what the sandbox leaves. */
const loadAverage = (): number => {
  const text = attempt(() => readFileSync("/proc/loadavg", "utf8"))
  return text === undefined ? loadavg()[0]! : Number.parseFloat(text)
}
