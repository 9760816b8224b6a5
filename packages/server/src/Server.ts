import { closeSync, mkdirSync, openSync, unlinkSync } from "node:fs"
import { availableParallelism, tmpdir } from "node:os"
import { join } from "node:path"
import { formatEndpoint, isLoopback } from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import * as Runtime from "effect/Runtime"
import type * as Scope from "effect/Scope"
import { cacheFolder } from "./cacheFolder.ts"
import {
  CacheFolderError,
  ListenError,
  PortInUseError,
  type ServeError,
  SessionStartError,
  SharedFileError,
  UnknownDeviceError,
} from "./errors.ts"
import type { LogEntry, LogSink } from "./log.ts"
import { SessionPool } from "./SessionPool.ts"
import { removeStaleParts } from "./session/cache.ts"
import type { DeviceReport, SessionConfig } from "./session/events.ts"

export interface ServeOptions {
  /** Address or name to listen on; IPv6 without brackets. Default `127.0.0.1`. */
  readonly host?: string
  /** Default 50052; 0 picks a free one. */
  readonly port?: number
  /** Names of the devices to serve, in this order; a name may repeat. Default: all accelerators, else one CPU. */
  readonly devices?: readonly string[]
  /** Threads per session for computing on the CPU. Default: half the cores, at least 1. */
  readonly threadCount?: number
  /** Keep weights on disk, in the folder that upstream's rpc-server uses. Default false. */
  readonly cache?: boolean
  /** Keep them in this folder instead; implies `cache`. */
  readonly cacheDir?: string
  /** Log each request. Default: whether `GGML_RPC_DEBUG` is `1`. */
  readonly debug?: boolean
  /** Clients served at the same time; more are turned away. Default 64. */
  readonly maxSessions?: number
  /** Session processes kept waiting for a client. Default 1; 0 makes a client wait for its process to start. */
  readonly spareCount?: number
  /** A new connection that has not said HELLO is closed when nothing came for so long. Default 10000. */
  readonly helloTimeoutMs?: number
  /**
   * Whether tensor data goes straight between the socket and tensor memory where that is host memory. Default
   * true; false sends all of it through the backend, as on a GPU.
   */
  readonly directMemory?: boolean
  /** Takes the log, line by line. Default: Effect's loggers of the calling fiber. */
  readonly log?: LogSink
}

/** A server that listens; it ends with the scope it was made in. */
export interface RunningServer {
  readonly host: string
  readonly port: number
  /** `host:port`, IPv6 in brackets. */
  readonly endpoint: string
  /** Memory as it was at the start. */
  readonly devices: readonly DeviceReport[]
  readonly threadCount: number
  readonly cacheDir: string | undefined
  /** Clients that are connected now. */
  readonly clientCount: () => number
  /** Ids of the session processes now, waiting ones included. */
  readonly processIds: () => readonly number[]
}

/** The port of upstream's rpc-server. */
export const DEFAULT_PORT = 50052

const DEFAULT_MAX_SESSIONS = 64

/** A connection that says nothing keeps a session process from others. */
const HELLO_TIMEOUT_MS = 10_000

/**
 * Starts a server: loads ggml in a first session process, listens, and hands each client to a process of
 * its own. When the scope closes, the port is free and no process is left.
 */
export const serve = (
  options: ServeOptions = {},
): Effect.Effect<RunningServer, ServeError, Scope.Scope> =>
  Effect.gen(function* () {
    const log = options.log ?? (yield* effectLog)
    const cacheDir = yield* prepareCache(options)
    const threadCount = options.threadCount ?? Math.max(1, Math.floor(availableParallelism() / 2))
    const config: Omit<SessionConfig, "describe" | "slot"> = {
      threadCount,
      helloTimeoutMs: options.helloTimeoutMs ?? HELLO_TIMEOUT_MS,
      directMemory: options.directMemory ?? true,
      debug: options.debug ?? process.env.GGML_RPC_DEBUG === "1",
      ...(options.devices === undefined ? {} : { devices: options.devices }),
      ...(cacheDir === undefined ? {} : { cacheDir }),
    }
    const promises = yield* namelessFile("wx+")
    const verified = yield* namelessFile("ax+")
    const pool = yield* Effect.acquireRelease(
      Effect.sync(
        () =>
          new SessionPool({
            config,
            maxSessions: options.maxSessions ?? DEFAULT_MAX_SESSIONS,
            spareCount: options.spareCount ?? 1,
            log,
            shared: [promises, verified],
          }),
      ),
      (made) => Effect.promise(() => made.close()),
    )
    const devices = yield* startPool(pool)
    const host = options.host ?? "127.0.0.1"
    const port = yield* listen(host, options.port ?? DEFAULT_PORT, pool)
    if (!isLoopback(host)) {
      log({
        level: "warning",
        message: `listening on ${formatEndpoint({ host, port })}: the protocol has no passwords and no encryption, so anyone who reaches this address can use this server; keep it in a private network`,
      })
    }
    return {
      host,
      port,
      endpoint: formatEndpoint({ host, port }),
      devices,
      threadCount,
      cacheDir,
      clientCount: () => pool.clientCount,
      processIds: () => pool.processIds,
    }
  })

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

const prepareCache = (
  options: ServeOptions,
): Effect.Effect<string | undefined, CacheFolderError> => {
  if (options.cacheDir === undefined && options.cache !== true) return Effect.succeed(undefined)
  const folder = cacheFolder(options.cacheDir)
  return Effect.try({
    try: () => {
      mkdirSync(folder, { recursive: true })
      removeStaleParts(folder)
      return folder
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

const startPool = (
  pool: SessionPool,
): Effect.Effect<readonly DeviceReport[], UnknownDeviceError | SessionStartError> =>
  Effect.flatMap(
    Effect.promise(() => pool.start()),
    (result): Effect.Effect<readonly DeviceReport[], UnknownDeviceError | SessionStartError> => {
      if (!("kind" in result)) return Effect.succeed(result)
      if (result.kind === "died") return new SessionStartError({ reason: result.reason })
      return new UnknownDeviceError({ device: result.name, available: result.available })
    },
  )

/** Listens, and gives every connection to the pool; returns the port. */
const listen = (
  host: string,
  port: number,
  pool: SessionPool,
): Effect.Effect<number, PortInUseError | ListenError, Scope.Scope> => {
  const endpoint = formatEndpoint({ host, port })
  return Effect.map(
    Effect.acquireRelease(
      Effect.try({
        try: () =>
          Bun.listen({
            hostname: host,
            port,
            socket: {
              open(socket) {
                // Not a byte may be read here: the session reads them all.
                socket.pause()
                pool.assign(
                  descriptorOf(socket),
                  formatEndpoint({ host: socket.remoteAddress, port: socket.remotePort }),
                )
                // Closes this process's copy only; `end` and `terminate` act on the connection.
                socket.close()
              },
              data() {},
              error() {},
            },
          }),
        catch: (cause) => listenError(endpoint, cause),
      }),
      (listener) => Effect.sync(() => listener.stop(true)),
    ),
    (listener) => listener.port,
  )
}

/** Bun's types leave `fd` out. */
const descriptorOf = (socket: object): number => (socket as { readonly fd: number }).fd

/** What the system's words for it do not say. Bun's own text names no cause. */
const listenReasons: Readonly<Record<string, string>> = {
  EADDRNOTAVAIL: "no network interface of this machine has this address",
  EACCES: "this needs privileges",
}

const listenError = (endpoint: string, cause: unknown): PortInUseError | ListenError => {
  const code = String((cause as { readonly code?: unknown } | null)?.code ?? "")
  if (code === "EADDRINUSE") return new PortInUseError({ endpoint })
  const said = cause instanceof Error ? cause.message : String(cause)
  return new ListenError({ endpoint, reason: listenReasons[code] ?? said, cause })
}
