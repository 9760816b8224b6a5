/** `ggml-rpc status`: how servers are. */
import { type Endpoint, formatEndpoint, type ProbeOptions, serverStatus } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { ReportedError } from "../errors.ts"
import { errorText } from "../failureText.ts"
import type { CommandValues } from "../flags/commands.ts"
import { withJsonErrors } from "../jsonErrors.ts"
import { printJson } from "../runReport.ts"
import { type Looked, serverJson, serverLine, serverLines } from "../statusView.ts"
import { columnsOf, noteLine, print, printLine, stdout, styleOf } from "../terminal.ts"
import { UsageError } from "../UsageError.ts"
import { wrap } from "../wrap.ts"
import { accessOf, endpointsOf } from "./inputs.ts"

type StatusValues = CommandValues<"status">

const INTERVAL_MS = 2000

export const status = (values: StatusValues) =>
  withJsonErrors(
    Effect.gen(function* () {
      const endpoints = yield* endpointsOf(values.rpc)
      if (endpoints.length === 0) {
        return yield* Effect.fail(
          new UsageError("status needs servers: name them with --rpc host:port"),
        )
      }
      const look = lookAt(endpoints, yield* accessOf(values))
      if (values.watch) return yield* watch(look, showEach(values.json))
      const found = yield* look
      show(found, values.json)
      if (found.some(isFailed)) return yield* new ReportedError({ exitCode: 1 })
    }),
    values.json,
  )

const isFailed = (looked: Looked): boolean => "error" in looked

const lookAt = (endpoints: ReadonlyArray<Endpoint>, access: ProbeOptions) =>
  Effect.forEach(
    endpoints,
    (endpoint) =>
      Effect.map(
        Effect.either(serverStatus(endpoint, access)),
        Either.match({
          onLeft: (error): Looked => ({ endpoint: formatEndpoint(endpoint), error }),
          onRight: (found): Looked => ({ endpoint: formatEndpoint(endpoint), status: found }),
        }),
      ),
    { concurrency: "unbounded" },
  )

const layout = () => ({
  columns: columnsOf(stdout),
  heading: styleOf(stdout).bold,
})

const textOf = (found: ReadonlyArray<Looked>): string =>
  found.map((looked) => serverLines(looked, layout()).join("\n")).join("\n\n")

const messagesOf = (found: ReadonlyArray<Looked>): ReadonlyArray<string> =>
  found.flatMap((looked) => ("error" in looked ? [looked.error.message] : []))

const show = (found: ReadonlyArray<Looked>, isJson: boolean): void => {
  if (isJson) {
    printJson({ servers: found.map(serverJson) })
    return
  }
  printLine(textOf(found))
  for (const message of messagesOf(found)) noteLine(errorText(message))
}

const watch = (
  look: Effect.Effect<ReadonlyArray<Looked>>,
  showOne: (found: ReadonlyArray<Looked>) => void,
): Effect.Effect<never> =>
  Effect.forever(
    // A server that is slow to answer makes no look longer than it takes.
    Effect.zipRight(Effect.map(look, showOne), Effect.sleep(INTERVAL_MS)),
  )

/** Top left, and all behind it cleared: what is drawn takes the place of what was. */
const HOME = "\x1b[H\x1b[J"

const showEach = (isJson: boolean): ((found: ReadonlyArray<Looked>) => void) => {
  if (isJson) {
    return (found) => printJson({ time: new Date().toISOString(), servers: found.map(serverJson) })
  }
  if (stdout.isTTY && process.env.TERM !== "dumb") {
    return (found) => {
      const errors = messagesOf(found).flatMap((message) =>
        wrap(`error: ${message}`, columnsOf(stdout)),
      )
      const below = errors.length === 0 ? "" : `\n\n${errors.join("\n")}`
      print(`${HOME}${textOf(found)}${below}\n`)
    }
  }
  return (found) => {
    for (const looked of found) printLine(serverLine(looked, new Date()))
  }
}
