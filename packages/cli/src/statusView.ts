/** How servers are, for people and as JSON. */
import { formatVersion, type ProbeError, type ServerStatus } from "@ggml-rpc/client"
import { formatBytes } from "@ggml-rpc/native/bindings"
import { formatCount } from "./units.ts"
import { wrap } from "./wrap.ts"

/** A server that was looked at, or why it could not be. */
export type Looked =
  | { readonly endpoint: string; readonly status: ServerStatus }
  | { readonly endpoint: string; readonly error: ProbeError }

const SECOND_MS = 1000
const MINUTE_MS = 60 * SECOND_MS
const HOUR_MS = 60 * MINUTE_MS
const DAY_MS = 24 * HOUR_MS

/** `12 s`, `3 min`, `2 h 5 min`, `4 d 3 h`. */
export const formatUptime = (ms: number): string => {
  if (ms < MINUTE_MS) return `${Math.floor(ms / SECOND_MS)} s`
  if (ms < HOUR_MS) return `${Math.floor(ms / MINUTE_MS)} min`
  if (ms < DAY_MS)
    return `${Math.floor(ms / HOUR_MS)} h ${Math.floor((ms % HOUR_MS) / MINUTE_MS)} min`
  return `${Math.floor(ms / DAY_MS)} d ${Math.floor((ms % DAY_MS) / HOUR_MS)} h`
}

const kindOf = ({ kind, version, report }: ServerStatus): string => {
  const software = report?.software === undefined ? kind : `${kind} ${report.software}`
  return `${software}, protocol ${formatVersion(version)}`
}

const clientsOf = ({ report }: ServerStatus): string | undefined => {
  if (report?.clientCount === undefined) return undefined
  const most = report.maxClients === undefined ? "" : ` of at most ${report.maxClients}`
  const served =
    report.servedCount === undefined
      ? ""
      : `, ${formatCount(report.servedCount, "connection")} served`
  return `${report.clientCount}${most}${served}`
}

const cacheOf = ({ report }: ServerStatus): string | undefined => {
  if (report?.cache === undefined) return undefined
  const { fileCount, sizeBytes, limitBytes, hits, misses } = report.cache
  const asked = hits + misses === 0 ? "" : `, ${hits} of ${hits + misses} weights found`
  return `${formatCount(fileCount, "file")}, ${formatBytes(sizeBytes)} of at most ${formatBytes(limitBytes)}${asked}`
}

const loadOf = ({ report }: ServerStatus): string | undefined =>
  report?.load === undefined
    ? undefined
    : `${report.load.average.toFixed(2)} on ${formatCount(report.load.coreCount, "core")}`

/** A device's name, or its number where its server tells none. */
const nameOf = ({ report }: ServerStatus, index: number): string =>
  report?.devices?.[index]?.name || `device ${index}`

const LABEL_COLUMNS = 11

/** A row with its label, in lines that fit. */
const row = (label: string, text: string, columns: number): ReadonlyArray<string> =>
  wrap(text, Math.max(20, columns - LABEL_COLUMNS)).map(
    (line, index) => `  ${(index === 0 ? label : "").padEnd(LABEL_COLUMNS - 3)} ${line}`,
  )

export interface StatusLayout {
  readonly columns: number
  /** Styles a server's name. */
  readonly heading: (text: string) => string
}

const failedLines = (
  endpoint: string,
  { columns, heading }: StatusLayout,
): ReadonlyArray<string> => [
  heading(endpoint),
  ...row("server", "cannot be used, see below", columns),
]

/** A server in some lines: what it does not tell has none. */
export const serverLines = (looked: Looked, layout: StatusLayout): ReadonlyArray<string> => {
  if ("error" in looked) return failedLines(looked.endpoint, layout)
  const { status } = looked
  const { columns, heading } = layout
  const optional = (label: string, text: string | undefined): ReadonlyArray<string> =>
    text === undefined ? [] : row(label, text, columns)
  return [
    heading(looked.endpoint),
    ...row("server", kindOf(status), columns),
    ...optional(
      "up",
      status.report?.uptimeMs === undefined ? undefined : formatUptime(status.report.uptimeMs),
    ),
    ...optional("clients", clientsOf(status)),
    ...optional("load", loadOf(status)),
    ...optional("cache", cacheOf(status)),
    ...status.devices.flatMap(({ index, freeBytes, totalBytes }) => {
      const description = status.report?.devices?.[index]?.description ?? ""
      const memory = `${formatBytes(freeBytes)} of ${formatBytes(totalBytes)} free`
      return row(
        nameOf(status, index),
        description === "" ? memory : `${memory}, ${description}`,
        columns,
      )
    }),
  ]
}

/** A server in one line, for a file that grows. */
export const serverLine = (looked: Looked, now: Date): string => {
  const time = now.toISOString().slice(0, 19)
  if ("error" in looked)
    return `${time}Z ${looked.endpoint} cannot be used: ${looked.error.message}`
  const { status } = looked
  const { report } = status
  const parts = [
    kindOf(status),
    report?.uptimeMs === undefined ? undefined : `up ${formatUptime(report.uptimeMs)}`,
    report?.clientCount === undefined ? undefined : formatCount(report.clientCount, "client"),
    ...status.devices.map(
      ({ index, freeBytes }) => `${nameOf(status, index)} ${formatBytes(freeBytes)} free`,
    ),
    report?.load === undefined ? undefined : `load ${report.load.average.toFixed(2)}`,
  ]
  return `${time}Z ${looked.endpoint} ${parts.filter((part) => part !== undefined).join(", ")}`
}

/** A server as JSON; memory in bytes. */
export const serverJson = (looked: Looked) => {
  if ("error" in looked) {
    const { _tag, message } = looked.error
    return { endpoint: looked.endpoint, error: _tag, message }
  }
  const { status, endpoint } = looked
  const { devices: told, ...report } = status.report ?? {}
  return {
    endpoint,
    kind: status.kind,
    protocol: formatVersion(status.version),
    ...report,
    devices: status.devices.map(({ index, freeBytes, totalBytes, domain }) => ({
      ...told?.[index],
      freeBytes,
      totalBytes,
      ...(domain === undefined ? {} : { memory: domain }),
    })),
  }
}
