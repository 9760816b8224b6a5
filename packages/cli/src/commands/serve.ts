/** `ggml-rpc serve`: this machine's devices for others. */
import { homedir } from "node:os"
import { join } from "node:path"
import { formatBanner, serve as listen } from "@ggml-rpc/server"
import * as Effect from "effect/Effect"
import type { FlagValues, serveFlags } from "../flags.ts"
import { printLine } from "../terminal.ts"
import { UsageError } from "../UsageError.ts"
import { prepareNative } from "./inputs.ts"

type ServeValues = FlagValues<typeof serveFlags>

export const serve = (values: ServeValues) =>
  Effect.scoped(
    Effect.gen(function* () {
      yield* prepareNative
      const server = yield* listen({
        ...(values.host === undefined ? {} : { host: hostOf(values.host) }),
        ...(values.port === undefined ? {} : { port: values.port }),
        ...(values.device === undefined ? {} : { devices: values.device }),
        ...(values.threads === undefined ? {} : { threadCount: values.threads }),
        ...(values.maxClients === undefined ? {} : { maxClients: values.maxClients }),
        addressLimits: !values.noAddressLimits,
        ...(values.protocol === undefined ? {} : { protocol: values.protocol }),
        ...(values.listen === undefined ? {} : { listen: yield* pinnedPorts(values.listen) }),
        versionsFile: versionsFile(),
        ...(values.allow === undefined ? {} : { allow: values.allow }),
        cache: values.cache,
        ...(values.cacheSize === undefined ? {} : { cacheLimitBytes: values.cacheSize }),
        allowTraining: values.allowTraining,
        allowComm: values.allowComm,
        sandbox: !values.noSandbox,
      })
      printLine(formatBanner(server))
      for (const { endpoint, protocol } of server.pinned) {
        printLine(`listening on ${endpoint} for protocol ${protocol}`)
      }
      printLine(`listening on ${server.endpoint}`)
      return yield* Effect.never
    }),
  )

/** IPv6 addresses with the brackets that an endpoint needs, or without. */
const hostOf = (text: string): string => text.replace(/^\[(.*)\]$/, "$1")

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

/** Which version of the protocol suits the clients of an address, where programs keep such things. */
const versionsFile = (): string => {
  const state = process.env.XDG_STATE_HOME || join(homedir(), ".local", "state")
  return join(state, "ggml-rpc", "client-versions.json")
}
