/**
 * A session process: takes connections from the front process over the socket that it got as descriptor
 * 3, and serves one client at a time. What it has to say goes to stdout, a JSON object a line; stderr is
 * ggml's.
 *
 * Imports no Effect: this process exists once per client and must start fast and stay small.
 */
import { writeSync } from "node:fs"
import {
  type Device,
  deviceMemory,
  io,
  listDevices,
  loadBackends,
  repackedTypes,
} from "@ggml-rpc/native/bindings"
import { send } from "@ggml-rpc/native/worker/child"
import { describeCommand, ProtocolError } from "@ggml-rpc/protocol"
import { Cache, type CacheOptions } from "../cache/Cache.ts"
import { maySealFiles, partsFolder, SEALING_LANDLOCK } from "../cache/CacheFolder.ts"
import { ModelIndex } from "../cache/ModelIndex.ts"
import { VerifiedFiles } from "../cache/VerifiedFiles.ts"
import { openDoing } from "./Doing.ts"
import { ClientGone, ComputeError, LinkError } from "./errors.ts"
import type {
  CacheConfig,
  ClientLimits,
  DeviceReport,
  SessionConfig,
  SessionEvent,
} from "./events.ts"
import { type HandedConnection, takeOver } from "./handOver.ts"
import { ServedDevice, selectDevices } from "./memory/devices.ts"
import { largePageBytes } from "./memory/LargePages.ts"
import { MemoryLedger } from "./memory/MemoryLedger.ts"
import { readReport } from "./ServerReport.ts"
import { Session } from "./Session.ts"
import { enterSandbox, type SandboxReport } from "./sandbox.ts"
import { serverNumber } from "./serverName.ts"
import { loadedTypeName } from "./spoken.ts"
import { WarmUp } from "./warmUp.ts"

/** The socket to the front process. */
const CHANNEL = 3

/** What all sessions promised to their clients; see `MemoryLedger`. */
const LEDGER = 4

/** The list of cache files that are known to be good. */
const VERIFIED = 5

/** Where each session process writes what it does; see `Doing`. */
const DOING = 7

/** What the front process says of the server, see `StatusBoard`; it can only be read. */
const BOARD = 6

/** An idle connection whose host gives no sign of life for twice this long is over. */
const KEEPALIVE_S = 10

/**
 * Who works with a server command after command, one behind the other, has the next one here sooner: its start, and what it is
 * served, would share a core with a warm-up. With nobody there for so long the process warms up, 0.2 s of a core.
 */
const WARM_UP_AFTER_MS = 250

/** The front process answers first, and so does whatever else this machine does at the usual priority. */
const NICE = 1

const tell = (event: SessionEvent): void => send(event)

/** Ends the process without the clean-up of runtimes and drivers: the system takes everything back. */
const exit = (code: number): never => {
  io().io_exit(code)
  throw new Error("unreachable")
}

const report = (device: Device): DeviceReport => ({
  name: device.name,
  description: device.description,
  type: device.type,
  ...deviceMemory(device),
})

interface Started {
  readonly devices: readonly ServedDevice[]
  readonly cache: Cache | undefined
  readonly warmUp: WarmUp | undefined
}

const start = (config: SessionConfig): Started => {
  loadBackends(config.debug ? 1 : 3)
  const selected = selectDevices(config.devices)
  if ("unknown" in selected) {
    tell({
      event: "unknown-device",
      name: selected.unknown,
      available: listDevices().map(report),
    })
    return exit(1)
  }
  if (selected.devices.length === 0) throw new Error("ggml finds no device on this machine")
  const keeping = config.cache && keepingOf(config.cache, config.sandbox)
  const mapsFiles = keeping?.isSealed ?? false
  const devices = selected.devices.map(
    (device) => new ServedDevice(device, config.threadCount, { mapsFiles }),
  )
  const warmUp = config.warmup ? new WarmUp(devices, tellOfWarmUp(config)) : undefined
  const repacked = config.describe && config.repack && devices.some(isCpu) ? typesRepacked() : []
  const described = config.describe ? selected.devices.map(report) : []
  const sandbox = config.sandbox ? giveUp(config, devices) : undefined
  tell({ event: "ready", devices: described, repacked, ...(sandbox && { sandbox }) })
  const isConfined = (sandbox?.landlock ?? 0) >= SEALING_LANDLOCK
  const cache = keeping && cacheOf({ ...keeping, isSealed: mapsFiles && isConfined })
  return { devices, cache, warmUp }
}

/** In the log of who looks for it: the process serves as well as another one. */
const tellOfWarmUp =
  ({ debug }: SessionConfig) =>
  (error: unknown): void => {
    if (debug) writeSync(2, `the warm-up ended early: ${error}\n`)
  }

type Keeping = Omit<CacheOptions, "verified" | "onProblem">

/** Asked of the system before the sandbox. */
const keepingOf = (cache: CacheConfig, hasSandbox: boolean): Keeping => ({
  ...cache,
  partsFolder: partsFolder(cache.folder),
  isSealed: hasSandbox && maySealFiles(cache.folder),
})

/** Names of the types of weights that this CPU has a layout of its own for. */
const typesRepacked = (): readonly string[] =>
  repackedTypes().flatMap((type) => loadedTypeName(type) ?? [])

const isCpu = ({ device }: ServedDevice): boolean => device.type === "CPU"

const giveUp = (config: SessionConfig, devices: readonly ServedDevice[]): SandboxReport => {
  const all = Number.POSITIVE_INFINITY
  const { serverBytes = all, clientBytes = all } = config.memoryLimits
  return enterSandbox({
    threadCount: config.threadCount,
    memoryBytes: Math.min(serverBytes, clientBytes),
    ...(config.cache === undefined ? {} : { cacheDir: config.cache.folder }),
    ...(config.models === undefined ? {} : { models: config.models }),
    hasDrivers: devices.some((device) => !device.usesHostMemory),
    makesCommLinks: config.commLimits !== undefined,
  })
}

const cacheOf = (keeping: Keeping): Cache =>
  new Cache({
    ...keeping,
    verified: new VerifiedFiles(VERIFIED),
    onProblem: (reason) => tell({ event: "uncached", reason }),
  })

const main = (config: SessionConfig): void => {
  io().io_expect_crash()
  io().io_ignore_signals()
  io().io_lower_priority(NICE)
  io().io_watch_parent(CHANNEL)
  const doing = openDoing(DOING, config.slot)
  io().io_limit_compute(config.clientLimits.computeMs ?? 0)
  const ledger = MemoryLedger.join(LEDGER, serverNumber(config.serverName))
  const pageBytes = largePageBytes()
  const { devices, cache, warmUp } = start(config)
  const session = new Session({
    devices,
    cache,
    models: config.models && new ModelIndex(config.models.indexFolder, config.models.folders),
    ledger,
    serverName: config.serverName,
    report: () => readReport(BOARD),
    memoryLimits: config.memoryLimits,
    clientLimits: config.clientLimits,
    doing,
    directMemory: config.directMemory,
    allowTraining: config.allowTraining,
    repack: config.repack,
    largePageBytes: pageBytes,
    commLimits: config.commLimits,
    peerLimits: config.peerLimits,
    askFront: { channel: CHANNEL, ask: tell },
    onLink: tell,
    onSpent: () => {
      // No other client comes.
      warmUp?.drop()
      tell({ event: "spent" })
    },
    onStats: tell,
    onRequest: config.debug
      ? (command, sizeBytes) =>
          void writeSync(2, `[${describeCommand(command)}] ${sizeBytes} bytes\n`)
      : undefined,
  })
  for (let again = true; again; ) {
    if (warmUp !== undefined && !warmUp.isDone && !isWantedWithin(WARM_UP_AFTER_MS)) {
      warmUp.run(isWantedWithin)
    }
    const connection = takeOver(CHANNEL)
    // The front process is gone.
    if (connection === undefined) return
    const ended = serveClient(session, connection, config.clientLimits)
    const stats = session.takeStats()
    const summary = session.summary()
    again = ended.reason !== "failed" && session.renew()
    const { helloBytes, hasAsked } = session
    const hello = helloBytes === undefined ? {} : { helloBytes }
    doing[0] = 0
    tell({ event: "closed", ...ended, ...hello, hasAsked, summary, stats, again })
  }
}

/** Whether a client is there, or the front process is gone. */
const isWantedWithin = (ms: number): boolean => io().io_wait_readable(CHANNEL, ms) !== 0

type Ended = Pick<Extract<SessionEvent, { event: "closed" }>, "reason" | "message">

const serveClient = (
  session: Session,
  connection: HandedConnection,
  { idleMs }: ClientLimits,
): Ended => {
  const { fd } = connection
  io().io_tune_socket(fd, KEEPALIVE_S)
  if (idleMs !== undefined) {
    io().io_set_receive_timeout(fd, idleMs)
    io().io_set_send_timeout(fd, idleMs)
  }
  io().io_watch_client(fd)
  try {
    return session.serve(connection)
  } catch (error) {
    if (error instanceof LinkError || error instanceof ClientGone) session.blame(error.lost)
    return endOf(error, session)
  } finally {
    flush(session)
    io().io_watch_client(-1)
    io().io_close(fd)
  }
}

/** A refused request does not take the answers to earlier ones along. */
const flush = (session: Session): void => {
  try {
    session.flush()
  } catch (error) {
    if (!(error instanceof ClientGone)) throw error
  }
}

const endOf = (error: unknown, session: Session): Ended => {
  if (error instanceof ClientGone) return { reason: "left", message: error.message }
  if (error instanceof ProtocolError) {
    const command = error.command ?? session.commandName
    const seen = error.value === undefined ? "" : ` (got ${error.value})`
    return { reason: "refused", message: `${command}: ${error.field} ${error.reason}${seen}` }
  }
  if (error instanceof ComputeError || error instanceof LinkError) {
    const command =
      (error instanceof ComputeError ? error.command : undefined) ?? session.commandName
    return { reason: "failed", message: `${command}: ${error.message}` }
  }
  throw error
}

try {
  main(JSON.parse(process.argv[2] ?? "{}") as SessionConfig)
} catch (error) {
  tell({ event: "failed", message: error instanceof Error ? error.message : String(error) })
  exit(1)
}
exit(0)
