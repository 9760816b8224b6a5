import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  unlinkSync,
  writeFileSync,
} from "node:fs"
import { availableParallelism, tmpdir } from "node:os"
import { dirname, join, resolve } from "node:path"
import { hostMemory, userCacheFolder } from "@ggml-rpc/native/bindings"
import {
  findOffer,
  formatEndpoint,
  isLoopback,
  LinkStatus,
  type ProtocolSpec,
  shortVersion,
} from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import * as Runtime from "effect/Runtime"
import type * as Scope from "effect/Scope"
import packageJson from "../../package.json" with { type: "json" }
import {
  FOLDER_MODE,
  listEntries,
  removeStaleParts,
  sizeOf,
  standardLimit,
} from "../cache/CacheFolder.ts"
import { cacheFolder } from "../cache/place.ts"
import type { CommLimits } from "../session/CommLink.ts"
import type { CacheConfig, DeviceReport, SessionConfig } from "../session/events.ts"
import { MemoryLedger } from "../session/memory/MemoryLedger.ts"
import type { PeerLimits } from "../session/PeerGroup.ts"
import type { ServerReport } from "../session/ServerReport.ts"
import { newServerName, serverNumber } from "../session/serverName.ts"
import type { AddressRates } from "./AddressCosts.ts"
import { Admission } from "./Admission.ts"
import { AllowList, privateRanges } from "./AllowList.ts"
import { type ClientEvent, logEvents } from "./ClientEvents.ts"
import {
  type DescriptorShares,
  descriptorLimit,
  openDescriptors,
  shareDescriptors,
} from "./descriptors.ts"
import {
  CacheFolderError,
  ModelFolderError,
  type ServeError,
  SessionStartError,
  SharedFileError,
  UnknownDeviceError,
  UnknownProtocolError,
} from "./errors.ts"
import { HelloGreeting } from "./Greeting.ts"
import type { TlsIdentity } from "./identity.ts"
import { listen, ownDescriptor } from "./listen.ts"
import type { LogEntry, LogSink } from "./log.ts"
import { Metrics } from "./Metrics.ts"
import { indexModels, type ModelsConfig } from "./ModelIndexer.ts"
import { peersOf } from "./peers.ts"
import { RepeatCounter } from "./RepeatCounter.ts"
import { SessionPool, type Started } from "./SessionPool.ts"
import { StatusBoard } from "./StatusBoard.ts"
import { type MetricsAddress, serveMetrics } from "./serveMetrics.ts"
import { openSharedLedger, standardLedgerFolder } from "./sharedLedger.ts"
import { TokenGreeting } from "./TokenGreeting.ts"
import { parseSavedOffers, type SavedOffers } from "./VersionOffers.ts"

export interface ServeOptions {
  /** Address or name to listen on; IPv6 without brackets. Default `127.0.0.1`. */
  readonly host?: string
  /** Default 50052; 0 picks a free one. */
  readonly port?: number
  /**
   * Version of the protocol to speak with every client, such as `7.0`. Default `auto`: the newest that suits a client, see
   * `VersionOffers`.
   */
  readonly protocol?: string
  /** More ports, each for one version of the protocol; port 0 picks a free one. */
  readonly listen?: readonly { readonly port: number; readonly protocol: string }[]
  /** File that keeps which version suits the clients of an address. Default: it is forgotten with the server. */
  readonly versionsFile?: string
  /** Where `/metrics`, for Prometheus, and `/healthz` are served by HTTP. Default: nowhere. */
  readonly metrics?: MetricsAddress
  /**
   * Whose connections are taken: addresses and networks such as `192.168.0.0/16`. Default: everybody's where `host` is an
   * address of this machine alone, else those of `privateRanges`.
   */
  readonly allow?: readonly string[]
  /** Certificate and key, PEM: all connections are encrypted then, which clients of llama.cpp cannot. Default: none is. */
  readonly tls?: TlsIdentity
  /**
   * What clients must have: a secret that they show without telling it. Clients of llama.cpp cannot, and are refused. Default:
   * none is asked for.
   */
  readonly token?: string
  /** Names of the devices to serve, in this order; a name may repeat. Default: all accelerators, else one CPU. */
  readonly devices?: readonly string[]
  /** Threads per session for computing on the CPU. Default: half the cores, at least 1. */
  readonly threadCount?: number
  /** Memory of all devices that clients may have, together. Default: what is free. */
  readonly memoryLimitBytes?: number
  /** The same for each client. */
  readonly clientMemoryLimitBytes?: number
  /** How long a graph of a client may run; its session ends then. Default: without end. */
  readonly maxComputeMs?: number
  /** How long a client may be silent, or take nothing of an answer; its session ends then. Default: without end. */
  readonly idleTimeoutMs?: number
  /** Nodes that a graph may have; larger ones are refused. Default 1048576. */
  readonly maxGraphNodes?: number
  /** Keep weights on disk, in the folder that upstream's rpc-server uses. Default false. */
  readonly cache?: boolean
  /** Keep them in this folder instead; implies `cache`. */
  readonly cacheDir?: string
  /**
   * How large the cache may get: least recently used files go. Default a tenth of what it and the disk's free space are
   * together, but at least what it is already.
   */
  readonly cacheLimitBytes?: number
  /** Smaller weights are not kept. Default 1 KiB: below it, it takes fewer bytes to send one than to ask. */
  readonly cacheMinBytes?: number
  /**
   * Folders of GGUF files whose weights clients are given, where they know what these hash to: they cross no network. Sessions read
   * them. Default: none.
   */
  readonly models?: readonly string[]
  /** Where it is kept what their weights hash to. Default: `models` in this user's folder for what can be made again. */
  readonly modelIndexFolder?: string
  /**
   * Folder of this user alone, in which the servers of a machine that share it write down what memory they promised: what one
   * gives, the others count as taken. Default: one for all servers of this user, in `/dev/shm` where there is that.
   */
  readonly ledgerFolder?: string
  /** Log each request. Default: whether `GGML_RPC_DEBUG` is `1`. */
  readonly debug?: boolean
  /** Clients served at the same time; more are turned away. Default 64. */
  readonly maxClients?: number
  /**
   * Whether the clients of one address are limited in what they may cost: see `addressRates`. Default true; false where one
   * address stands for many, as a proxy's.
   */
  readonly addressLimits?: boolean
  /** Session processes kept waiting for a client. Default 1; 0 makes a client wait for its process to start. */
  readonly spareCount?: number
  /** A new connection is closed when it has not said all of HELLO by then. Default 10000. */
  readonly helloTimeoutMs?: number
  /**
   * Whether tensor data goes straight between the socket and tensor memory where that is host memory. Default
   * true; false sends all of it through the backend, as on a GPU.
   */
  readonly directMemory?: boolean
  /** Whether operations that only training uses are run: gradients, losses, optimizers. Default false. */
  readonly allowTraining?: boolean
  /**
   * Whether weights on the CPU are kept in the layouts in which it multiplies them faster, as llama.cpp does in its own process;
   * clients see nothing of it but the speed, and results that differ by rounding. Default true.
   */
  readonly repack?: boolean
  /**
   * Whether a session process computes for small clients of its own when no real one has come for a quarter of a second, so that the
   * first tokens of the next one are as fast as all others. It stops when one comes. Default true.
   */
  readonly warmup?: boolean
  /**
   * Whether a client may link this server with another one, on which the two add up partial results (8.0's COMM_INIT, for
   * llama.cpp's `-sm tensor`). For that this server listens, on the address by which the client came and for one connection, or
   * dials whatever address the client names. Default false.
   */
  readonly allowComm?: boolean
  /**
   * Other servers of ours that this one may connect to, where a client wants the two to add up partial results by themselves:
   * addresses and networks as in `allow`; an empty list makes no such links. Default: for clients on this machine its loopback, and
   * where `host` is not an address of this machine alone, for all the private networks whose connections are taken.
   */
  readonly peers?: readonly string[]
  /** How long such a link stays awake for a partial result before it sleeps, in microseconds. Default 50. */
  readonly spinUs?: number
  /** How long the other server may take to come to the link. Default 5000. */
  readonly linkTimeoutMs?: number
  /** How long it may send nothing on it while a partial result is awaited. Default 120000. */
  readonly linkSilenceMs?: number
  /**
   * Whether session processes give up what they do not need before they read the first byte of a client; docs/security.md.
   * Default true; false is for debuggers, and for systems on which that does harm.
   */
  readonly sandbox?: boolean
  /** Takes the log, line by line. Default: Effect's loggers of the calling fiber. */
  readonly log?: LogSink
  /** Lines of one kind are counted for so long after one was written, see `RepeatCounter`. Default 10000; 0 writes them all. */
  readonly logWindowMs?: number
}

/** A server that listens; it ends with the scope it was made in. */
export interface RunningServer {
  readonly host: string
  readonly port: number
  /** `host:port`, IPv6 in brackets. */
  readonly endpoint: string
  /** `7.0` when it speaks that alone; undefined when it speaks what suits the client. */
  readonly protocol: string | undefined
  /** The ports of `ServeOptions.listen`, in its words. */
  readonly pinned: readonly { readonly endpoint: string; readonly protocol: string }[]
  /** Memory as it was at the start. */
  readonly devices: readonly DeviceReport[]
  readonly threadCount: number
  /** Folders of models that clients are given weights of. */
  readonly modelFolders: readonly string[]
  readonly cacheDir: string | undefined
  /** What keeps a session process that a client has taken over from the rest of this machine, in words. */
  readonly sandbox: string
  /** Types of weights that it repacks; see `ServeOptions.repack`. */
  readonly repacked: readonly string[]
  readonly cacheLimitBytes: number | undefined
  /** `host:port` of the metrics. */
  readonly metricsEndpoint: string | undefined
  /** Clients that are connected now. */
  readonly clientCount: () => number
  /** Ids of the session processes now, waiting ones included. */
  readonly processIds: () => readonly number[]
}

/** The port of upstream's rpc-server. */
export const DEFAULT_PORT = 50052

/** See `ServeOptions.cacheMinBytes`. */
const MIN_CACHED_BYTES = 1024

const DEFAULT_MAX_CLIENTS = 64

/** libllama's have up to 8 for each tensor of a model, or 65,536. */
const DEFAULT_MAX_GRAPH_NODES = 2 ** 20

/**
 * What the clients of one address may cost. A start takes 0.2 s of a core: a burst fills the server, and later a second of
 * all leaves most of it to others. A session that is short takes half a millisecond.
 */
const addressRates: AddressRates = {
  starts: { burst: DEFAULT_MAX_CLIENTS, perSecond: 4 },
  sessions: { burst: 640, perSecond: 200 },
}

const HELLO_TIMEOUT_MS = 10_000

const LOG_WINDOW_MS = 10_000

/** As long as upstream's servers try. */
const LINK_TIMEOUT_MS = 5000

/** For the slower of the two to compute its part. */
const LINK_SILENCE_MS = 120_000

/** What two servers that compute as long as each other differ by. */
const SPIN_US = 50

/** Connections that have not said HELLO, in all and from one address. They cost a descriptor each. */
const MAX_HANDSHAKES = 512
const MAX_HANDSHAKES_PER_ADDRESS = 128

/**
 * Starts a server: loads ggml in a first session process, listens, and hands each client to a process of
 * its own. When the scope closes, the port is free and no process is left.
 */
export const serve = (
  options: ServeOptions = {},
): Effect.Effect<RunningServer, ServeError, Scope.Scope> =>
  Effect.gen(function* () {
    const log = yield* countedLog(
      options.log ?? (yield* effectLog),
      options.logWindowMs ?? LOG_WINDOW_MS,
    )
    const protocol = yield* pinnedProtocol(options.protocol ?? AUTO)
    const ports = yield* Effect.forEach(options.listen ?? [], ({ port, protocol }) =>
      Effect.map(pinnedProtocol(protocol), (spec) => ({ port, protocol, spec })),
    )
    const cache = yield* prepareCache(options)
    const models = yield* prepareModels(options)
    const threadCount = options.threadCount ?? Math.max(1, Math.floor(availableParallelism() / 2))
    const serverName = newServerName()
    const host = options.host ?? "127.0.0.1"
    const allow = yield* AllowList.of(
      options.allow ?? (isLoopback(host) ? anywhere : privateRanges),
    )
    const mayDial = yield* peersOf(options.peers, host, allow)
    const refusal =
      options.peers?.length === 0
        ? LinkStatus.OFF
        : options.tls === undefined
          ? undefined
          : LinkStatus.TLS
    const config: Omit<SessionConfig, "describe" | "slot"> = {
      threadCount,
      directMemory: options.directMemory ?? true,
      sandbox: options.sandbox ?? true,
      allowTraining: options.allowTraining ?? false,
      repack: options.repack ?? true,
      warmup: options.warmup ?? true,
      memoryLimits: {
        ...(options.memoryLimitBytes && { serverBytes: options.memoryLimitBytes }),
        ...(options.clientMemoryLimitBytes && { clientBytes: options.clientMemoryLimitBytes }),
      },
      clientLimits: {
        ...(options.maxComputeMs && { computeMs: options.maxComputeMs }),
        ...(options.idleTimeoutMs && { idleMs: options.idleTimeoutMs }),
        graphNodes: options.maxGraphNodes ?? DEFAULT_MAX_GRAPH_NODES,
      },
      debug: options.debug ?? process.env.GGML_RPC_DEBUG === "1",
      serverName,
      ...(options.devices === undefined ? {} : { devices: options.devices }),
      ...(cache === undefined ? {} : { cache }),
      ...(models === undefined ? {} : { models }),
      ...(options.allowComm === true ? { commLimits: commLimits(options) } : {}),
      peerLimits: { ...peerLimits(options), ...(refusal === undefined ? {} : { refusal }) },
    }
    const ledger = yield* ledgerFile(options.ledgerFolder ?? standardLedgerFolder(), log)
    const verified = yield* namelessFile("ax+")
    const doing = yield* namelessFile("wx+")
    const metrics = new Metrics()
    const logEvent = logEvents(log)
    const cacheNow = cache && recentCache(cache)
    // Written when something happens to a client, so when there is the pool.
    const board = yield* statusBoard(() => ({
      software: packageJson.version,
      startedAtMs: metrics.startedAtMs,
      serving: pool.serving.pids,
      waitingCount: pool.serving.waitingCount,
      maxClients: shares.clients,
      servedCount: metrics.servedCount,
      ...(cacheNow && {
        cache: { ...cacheNow(), hits: metrics.cacheHits, misses: metrics.cacheMisses },
      }),
    }))
    const shares = affordable(options.maxClients ?? DEFAULT_MAX_CLIENTS, log)
    const onEvent = (event: ClientEvent): void => {
      metrics.noteClient(event)
      logEvent(event)
      board.update()
    }
    const pool: SessionPool = yield* Effect.acquireRelease(
      Effect.sync(
        () =>
          new SessionPool({
            config,
            maxClients: shares.clients,
            spareCount: options.spareCount ?? 1,
            log,
            onEvent,
            onStats: (stats) => {
              metrics.noteStats(stats)
              board.update()
            },
            shared: [ledger, verified, board.readable],
            doing,
            links: {
              mayDial,
              token: options.token,
              timeoutMs: options.linkTimeoutMs ?? LINK_TIMEOUT_MS,
              ...(refusal === undefined ? {} : { refusal }),
            },
            limits: (options.addressLimits ?? true) ? addressRates : undefined,
            ...rememberedVersions(options.versionsFile, log),
          }),
      ),
      (made) => Effect.promise(() => made.close()),
    )
    const { devices, sandbox, repacked } = yield* startPool(pool)
    board.update()
    const { token } = options
    const admission = yield* Effect.acquireRelease(
      Effect.sync(
        () =>
          new Admission({
            timeoutMs: options.helloTimeoutMs ?? HELLO_TIMEOUT_MS,
            maxHandshakes: shares.handshakes,
            maxHandshakesPerAddress: Math.min(MAX_HANDSHAKES_PER_ADDRESS, shares.handshakes),
            // In a full server a link of a session may still come.
            check: ({ host, address }) =>
              !allow.has(host)
                ? NOT_ALLOWED
                : pool.links.expectedCount > 0
                  ? undefined
                  : pool.fullnessFor(address),
            greet: () => (token === undefined ? new HelloGreeting() : new TokenGreeting(token)),
            descriptorOf: options.tls === undefined ? ownDescriptor : undefined,
            onAdmitted: (connection) => pool.assign(connection),
            onJoined: (key, fd, accept) => pool.links.join(key, fd, accept),
            onEvent,
          }),
      ),
      (made) => Effect.sync(() => made.close()),
    )
    const port = yield* listen(host, options.port ?? DEFAULT_PORT, admission, {
      pinned: protocol,
      tls: options.tls,
    })
    const promised = MemoryLedger.watch(ledger, serverNumber(serverName))
    const metricsText = (): string =>
      metrics.text(
        {
          clientCount: pool.clientCount,
          handshakeCount: admission.handshakeCount,
          processCount: pool.processIds.length,
          cache: cache && listEntries(cache.folder),
          bufferBytes: promised.othersAllBytes(),
          freeHostBytes: hostMemory().freeBytes,
        },
        devices,
      )
    const metricsEndpoint = options.metrics && (yield* serveMetrics(options.metrics, metricsText))
    const pinned = yield* Effect.forEach(ports, ({ port, protocol, spec }) =>
      Effect.map(listen(host, port, admission, { pinned: spec, tls: options.tls }), (found) => ({
        endpoint: formatEndpoint({ host, port: found }),
        protocol,
      })),
    )
    if (!isLoopback(host)) {
      log({
        level: "warning",
        message: `listening on ${formatEndpoint({ host, port })} for ${options.allow?.join(", ") ?? "addresses of private networks (--allow takes others)"}: ${token === undefined ? "no token is asked for (--token-file), so anyone there can use this server, and nothing is encrypted" : "nothing is encrypted, so whoever is on the way can read and change what is sent"}`,
      })
    }
    if (models !== undefined) yield* indexModels(models, log)
    return {
      host,
      port,
      endpoint: formatEndpoint({ host, port }),
      protocol: protocol && nameOf(protocol),
      pinned,
      devices,
      threadCount,
      modelFolders: models?.folders ?? [],
      cacheDir: cache?.folder,
      cacheLimitBytes: cache?.limitBytes,
      sandbox,
      repacked,
      metricsEndpoint,
      clientCount: () => pool.clientCount,
      processIds: () => pool.processIds,
    }
  })

const anywhere = ["0.0.0.0/0", "::/0"]

const NOT_ALLOWED = "its address is not among those that may use this server (--allow)"

const commLimits = ({ linkTimeoutMs, linkSilenceMs }: ServeOptions): CommLimits => ({
  linkMs: linkTimeoutMs ?? LINK_TIMEOUT_MS,
  silenceMs: linkSilenceMs ?? LINK_SILENCE_MS,
})

const peerLimits = (options: ServeOptions): PeerLimits => ({
  ...commLimits(options),
  spinMs: (options.spinUs ?? SPIN_US) / 1000,
})

const AUTO = "auto"

const nameOf = ({ version }: ProtocolSpec): string => shortVersion(version)

const pinnedProtocol = (
  name: string,
): Effect.Effect<ProtocolSpec | undefined, UnknownProtocolError> => {
  if (name === AUTO) return Effect.succeed(undefined)
  const spec = findOffer(name)
  return spec === undefined ? new UnknownProtocolError({ protocol: name }) : Effect.succeed(spec)
}

/** What a former server learned of its clients; what cannot be kept is learned again. */
const rememberedVersions = (file: string | undefined, log: LogSink) => {
  if (file === undefined) return {}
  const read = (): string => {
    try {
      return readFileSync(file, "utf8")
    } catch {
      return ""
    }
  }
  return {
    savedOffers: parseSavedOffers(read()),
    onOffers: (offers: SavedOffers): void => {
      try {
        mkdirSync(dirname(file), { recursive: true })
        // Another server of this user may have written since.
        const others = parseSavedOffers(read())
        writeFileSync(`${file}.${process.pid}`, JSON.stringify({ ...others, ...offers }))
        renameSync(`${file}.${process.pid}`, file)
      } catch (cause) {
        const reason = cause instanceof Error ? cause.message : String(cause)
        log({ level: "debug", message: `${file} cannot be written: ${reason}` })
      }
    },
  }
}

const effectLog: Effect.Effect<LogSink> = Effect.map(Effect.runtime<never>(), (runtime) => {
  const run = Runtime.runSync(runtime)
  const levels = {
    debug: Effect.logDebug,
    info: Effect.logInfo,
    warning: Effect.logWarning,
    error: Effect.logError,
  }
  return ({ level, message }: LogEntry) => run(levels[level](message))
})

/** What the limit of open files allows. */
const affordable = (maxClients: number, log: LogSink): DescriptorShares => {
  const limit = descriptorLimit()
  const wanted = { clients: maxClients, handshakes: MAX_HANDSHAKES }
  const shares = shareDescriptors(limit - openDescriptors(), wanted)
  if (shares.clients < maxClients) {
    const message = `this process may have ${limit} files open, which is enough for ${shares.clients} clients at a time, not ${maxClients}: raise the limit (ulimit -n) for more`
    log({ level: "warning", message })
  }
  return shares
}

const countedLog = (sink: LogSink, windowMs: number): Effect.Effect<LogSink, never, Scope.Scope> =>
  windowMs === 0
    ? Effect.succeed(sink)
    : Effect.map(
        Effect.acquireRelease(
          Effect.sync(() => new RepeatCounter(sink, windowMs)),
          (counter) => Effect.sync(() => counter.close()),
        ),
        ({ log }) => log,
      )

const prepareModels = (
  options: ServeOptions,
): Effect.Effect<ModelsConfig | undefined, ModelFolderError> =>
  Effect.gen(function* () {
    const { models = [] } = options
    if (models.length === 0) return undefined
    const folders = yield* Effect.forEach(models, (folder) =>
      Effect.try({
        try: () => {
          readdirSync(folder)
          return realpathSync(folder)
        },
        catch: (cause) => new ModelFolderError({ folder, cause }),
      }),
    )
    const indexFolder = resolve(options.modelIndexFolder ?? join(userCacheFolder(), "models"))
    yield* Effect.try({
      try: () => mkdirSync(indexFolder, { recursive: true, mode: 0o700 }),
      catch: (cause) => new ModelFolderError({ folder: indexFolder, cause }),
    })
    return { folders, indexFolder }
  })

const prepareCache = (
  options: ServeOptions,
): Effect.Effect<CacheConfig | undefined, CacheFolderError> => {
  if (options.cacheDir === undefined && options.cache !== true) return Effect.succeed(undefined)
  const folder = cacheFolder(options.cacheDir)
  return Effect.try({
    try: () => {
      mkdirSync(folder, { recursive: true, mode: FOLDER_MODE })
      removeStaleParts(folder)
      const limitBytes = options.cacheLimitBytes ?? standardLimit(folder)
      return { folder, limitBytes, minBytes: options.cacheMinBytes ?? MIN_CACHED_BYTES }
    },
    catch: (cause) => new CacheFolderError({ folder, cause }),
  })
}

/** A file for the session processes to share, which is gone with the last of them. */
const namelessFile = (flags: "wx+" | "ax+"): Effect.Effect<number, SharedFileError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.try({
      try: () => {
        const path = join(tmpdir(), `ggml-rpc-${process.pid}-${crypto.randomUUID()}`)
        const descriptor = openSync(path, flags)
        unlinkSync(path)
        return descriptor
      },
      catch: (cause) => new SharedFileError({ folder: tmpdir(), cause }),
    }),
    (descriptor) => Effect.sync(() => closeSync(descriptor)),
  )

const statusBoard = (
  report: () => ServerReport,
): Effect.Effect<StatusBoard, SharedFileError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.try({
      try: () => new StatusBoard(report),
      catch: (cause) => new SharedFileError({ folder: tmpdir(), cause }),
    }),
    (board) => Effect.sync(() => board.close()),
  )

/** A list of the folder costs a look at each of its files. */
const CACHE_LOOK_MS = 2000

const recentCache = ({ folder, limitBytes }: CacheConfig) => {
  let lookedAt = Number.NEGATIVE_INFINITY
  let entries: ReturnType<typeof listEntries> = []
  return () => {
    if (performance.now() - lookedAt > CACHE_LOOK_MS) {
      entries = listEntries(folder)
      lookedAt = performance.now()
    }
    return { fileCount: entries.length, sizeBytes: sizeOf(entries), limitBytes }
  }
}

/** What servers of this user promised, or where there can be no such file, this one's sessions alone. */
const ledgerFile = (
  folder: string,
  log: LogSink,
): Effect.Effect<number, SharedFileError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.try(() => openSharedLedger(folder)),
    (descriptor) => Effect.sync(() => closeSync(descriptor)),
  ).pipe(
    Effect.catchAll(({ error }) => {
      const reason = error instanceof Error ? error.message : String(error)
      const message = `what memory other servers of this machine promise to their clients is not known here (${reason})`
      log({ level: "warning", message })
      return namelessFile("wx+")
    }),
  )

const startPool = (
  pool: SessionPool,
): Effect.Effect<Started, UnknownDeviceError | SessionStartError> =>
  Effect.flatMap(
    Effect.promise(() => pool.start()),
    (result): Effect.Effect<Started, UnknownDeviceError | SessionStartError> => {
      if (!("kind" in result)) return Effect.succeed(result)
      if (result.kind === "died") return new SessionStartError({ reason: result.reason })
      return new UnknownDeviceError({ device: result.name, available: result.available })
    },
  )
