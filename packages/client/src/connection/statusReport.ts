/** What a server says of itself, for people. It may say anything: what is not as it should be is left out. */

export interface CacheStatus {
  readonly fileCount: number
  readonly sizeBytes: number
  readonly limitBytes: number
  /** Weights that clients asked for since the server started, and the cache had or had not. */
  readonly hits: number
  readonly misses: number
}

/** How a server is. Fields that it does not tell are missing. */
export interface StatusReport {
  /** Version of ggml-rpc there. */
  readonly software?: string
  readonly uptimeMs?: number
  /** Without the one who asks. */
  readonly clientCount?: number
  readonly maxClients?: number
  /** Connections that it served since its start. */
  readonly servedCount?: number
  readonly cache?: CacheStatus
  /** Processes that ran or wanted to in the last minute, on average, and the cores that there are for them. */
  readonly load?: { readonly average: number; readonly coreCount: number }
  /** In the order of the devices. */
  readonly devices?: ReadonlyArray<{ readonly name: string; readonly description: string }>
}

const MAX_TEXT = 128

const numberOf = (value: unknown): number | undefined =>
  typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : undefined

/** Without what would do something to a terminal. */
const textOf = (value: unknown): string | undefined =>
  typeof value === "string"
    ? value.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, " ").slice(0, MAX_TEXT)
    : undefined

const fieldsOf = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {}

/** The numbers of these names, when all are there. */
const numbersOf = <K extends string>(
  value: unknown,
  names: ReadonlyArray<K>,
): Readonly<Record<K, number>> | undefined => {
  const fields = fieldsOf(value)
  const found = names.flatMap((name) => {
    const number = numberOf(fields[name])
    return number === undefined ? [] : [[name, number] as const]
  })
  return found.length === names.length
    ? (Object.fromEntries(found) as Readonly<Record<K, number>>)
    : undefined
}

const devicesOf = (value: unknown): StatusReport["devices"] =>
  Array.isArray(value)
    ? value.map((device) => {
        const { name, description } = fieldsOf(device)
        return { name: textOf(name) ?? "", description: textOf(description) ?? "" }
      })
    : undefined

/** The answer to STATUS; undefined when it is none. */
export const readReport = (payload: Uint8Array): StatusReport | undefined => {
  let told: Readonly<Record<string, unknown>>
  try {
    told = fieldsOf(JSON.parse(new TextDecoder().decode(payload)))
  } catch {
    return undefined
  }
  const report = {
    software: textOf(told.software),
    uptimeMs: numberOf(told.uptimeMs),
    clientCount: numberOf(told.clientCount),
    maxClients: numberOf(told.maxClients),
    servedCount: numberOf(told.servedCount),
    cache: numbersOf(told.cache, ["fileCount", "sizeBytes", "limitBytes", "hits", "misses"]),
    load: numbersOf(told.load, ["average", "coreCount"]),
    devices: devicesOf(told.devices),
  }
  return Object.fromEntries(
    Object.entries(report).filter(([, value]) => value !== undefined),
  ) as StatusReport
}
