/** `ggml-rpc serve`: this machine's devices for others. */
import { formatBanner, serve as listen } from "@ggml-rpc/server"
import * as Effect from "effect/Effect"
import type { FlagValues, serveFlags } from "../flags.ts"
import { printLine } from "../terminal.ts"
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
        ...(values.maxSessions === undefined ? {} : { maxSessions: values.maxSessions }),
        cache: values.cache,
      })
      printLine(formatBanner(server))
      printLine(`listening on ${server.endpoint}`)
      return yield* Effect.never
    }),
  )

/** IPv6 addresses with the brackets that an endpoint needs, or without. */
const hostOf = (text: string): string => text.replace(/^\[(.*)\]$/, "$1")
