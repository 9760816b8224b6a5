/** `ggml-rpc serve`: this machine's devices for others. */
import { homedir } from "node:os"
import { join } from "node:path"
import { parseEndpoints } from "@ggml-rpc/client"
import {
  fingerprintOf,
  formatBanner,
  serve as listen,
  ownIdentity,
  readIdentity,
} from "@ggml-rpc/server"
import * as Effect from "effect/Effect"
import { isDebug } from "../debug.ts"
import type { CommandValues } from "../flags/commands.ts"
import { serverLog } from "../serverLog.ts"
import { printLine } from "../terminal.ts"
import { UsageError } from "../UsageError.ts"
import { prepareNative } from "./inputs.ts"
import { readToken } from "./secrets.ts"

type ServeValues = CommandValues<"serve">

export const serve = (values: ServeValues) =>
  Effect.scoped(
    Effect.gen(function* () {
      yield* prepareNative
      const tls = yield* identityOf(values)
      const server = yield* listen({
        ...(values.host === undefined ? {} : { host: hostOf(values.host) }),
        ...(values.port === undefined ? {} : { port: values.port }),
        ...(values.device === undefined ? {} : { devices: values.device }),
        ...(values.threads === undefined ? {} : { threadCount: values.threads }),
        ...(values.maxClients === undefined ? {} : { maxClients: values.maxClients }),
        ...(values.maxComputeSeconds === undefined
          ? {}
          : { maxComputeMs: values.maxComputeSeconds * 1000 }),
        ...(values.idleTimeout === undefined ? {} : { idleTimeoutMs: values.idleTimeout * 1000 }),
        ...(values.maxGraphNodes === undefined ? {} : { maxGraphNodes: values.maxGraphNodes }),
        addressLimits: !values.noAddressLimits,
        ...(values.protocol === undefined ? {} : { protocol: values.protocol }),
        ...(values.listen === undefined ? {} : { listen: yield* pinnedPorts(values.listen) }),
        versionsFile: versionsFile(),
        ...(values.allow === undefined ? {} : { allow: values.allow }),
        ...(tls === undefined ? {} : { tls }),
        ...(values.tokenFile === undefined ? {} : { token: yield* readToken(values.tokenFile) }),
        ...(values.memLimit === undefined ? {} : { memoryLimitBytes: values.memLimit }),
        ...(values.clientMemLimit === undefined
          ? {}
          : { clientMemoryLimitBytes: values.clientMemLimit }),
        cache: values.cache,
        ...(values.cacheSize === undefined ? {} : { cacheLimitBytes: values.cacheSize }),
        ...(values.models === undefined ? {} : { models: values.models }),
        allowTraining: values.allowTraining,
        repack: !values.noRepack,
        warmup: values.warmup,
        allowComm: values.allowComm,
        ...(values.peers === undefined ? {} : { peers: peersOf(values.peers) }),
        ...(values.spin === undefined ? {} : { spinUs: values.spin }),
        sandbox: !values.noSandbox,
        ...(values.metrics === undefined ? {} : { metrics: yield* metricsAddress(values.metrics) }),
        log: serverLog(values.logFormat, values.logLevel ?? (isDebug() ? "debug" : "info")),
      })
      printLine(formatBanner(server))
      for (const { endpoint, protocol } of server.pinned) {
        printLine(`listening on ${endpoint} for protocol ${protocol}`)
      }
      if (server.metricsEndpoint !== undefined) {
        printLine(`metrics on http://${server.metricsEndpoint}/metrics`)
      }
      if (tls !== undefined) printLine(`certificate fingerprint: ${fingerprintOf(tls)}`)
      printLine(`listening on ${server.endpoint}`)
      return yield* Effect.never
    }),
  )

/** Whom this server may connect to; `none` alone is nobody. */
const peersOf = (ranges: readonly string[]): readonly string[] =>
  ranges.length === 1 && ranges[0]!.trim() === "none" ? [] : ranges

/** IPv6 addresses with the brackets that an endpoint needs, or without. */
const hostOf = (text: string): string => text.replace(/^\[(.*)\]$/, "$1")

/** `9090`, or an endpoint. */
const metricsAddress = (text: string) =>
  /^\d{1,5}$/.test(text) && Number(text) <= 65535
    ? Effect.succeed({ port: Number(text) })
    : Effect.mapError(
        parseEndpoints(text),
        ({ message }) => new UsageError(`--metrics: ${message}`),
      ).pipe(
        Effect.flatMap(([endpoint, ...more]) =>
          endpoint !== undefined && more.length === 0
            ? Effect.succeed(endpoint)
            : Effect.fail(new UsageError("--metrics takes one port or HOST:PORT")),
        ),
      )

/** `50053=7.0`, each. */
const pinnedPorts = (texts: readonly string[]) =>
  Effect.forEach(texts, (text) => {
    const [, port, protocol] = /^(\d{1,5})=([\d.]+(?:@\d+)?|auto)$/.exec(text) ?? []
    return port === undefined || protocol === undefined || Number(port) > 65535
      ? Effect.fail(
          new UsageError(
            `--listen takes PORT=X.Y, such as 50053=7.0, with commas between, not '${text}'`,
          ),
        )
      : Effect.succeed({ port: Number(port), protocol })
  })

/** The certificate to serve with, if any. */
const identityOf = ({ tls, tlsCert, tlsKey }: ServeValues) =>
  Effect.gen(function* () {
    if ((tlsCert === undefined) !== (tlsKey === undefined)) {
      return yield* Effect.fail(new UsageError("--tls-cert and --tls-key belong together"))
    }
    if (tlsCert === undefined || tlsKey === undefined) {
      return tls === undefined ? undefined : yield* ownIdentity(stateFolder())
    }
    if (tls === undefined) return yield* readIdentity(tlsCert, tlsKey)
    return yield* Effect.fail(
      new UsageError("--tls self makes a certificate; --tls-cert names one"),
    )
  })

/** Where programs keep what they learned. */
const stateFolder = (): string =>
  join(process.env.XDG_STATE_HOME || join(homedir(), ".local", "state"), "ggml-rpc")

/** Which version of the protocol suits the clients of an address. */
const versionsFile = (): string => join(stateFolder(), "client-versions.json")
