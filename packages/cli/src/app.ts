/** What runs a command, and what its end means as an exit code. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as HashSet from "effect/HashSet"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import { isDebug } from "./debug.ts"
import type { EarlyEnd } from "./earlyEnd.ts"
import { ReportedError } from "./errors.ts"
import { errorText, usageErrorText } from "./failureText.ts"
import type { CommandName, CommandValues } from "./flags/commands.ts"
import { logLine } from "./serverLog.ts"
import { noteLine } from "./terminal.ts"

type Handler<C extends CommandName> = (values: CommandValues<C>) => Effect.Effect<void, unknown>

/** A command's code is loaded when it is called: a usage error needs none of it. */
const handlers: { readonly [C in CommandName]: () => Promise<Handler<C>> } = {
  run: async () => (await import("./commands/run.ts")).run,
  api: async () => (await import("./commands/api.ts")).api,
  chat: async () => (await import("./commands/chat.ts")).chat,
  embed: async () => (await import("./commands/embed.ts")).embed,
  bench: async () => (await import("./commands/bench.ts")).bench,
  serve: async () => (await import("./commands/serve.ts")).serve,
  devices: async () => (await import("./commands/devices.ts")).devices,
  status: async () => (await import("./commands/status.ts")).status,
  plan: async () => (await import("./commands/plan.ts")).plan,
  verify: async () => (await import("./commands/verify.ts")).verify,
  pull: async () => (await import("./commands/pull.ts")).pull,
  ls: async () => (await import("./commands/ls.ts")).ls,
  rm: async () => (await import("./commands/rm.ts")).rm,
  cache: async () => (await import("./commands/cache.ts")).cache,
  service: async () => (await import("./commands/service.ts")).service,
  completion: async () => (await import("./commands/completion.ts")).completion,
  demo: async () => (await import("./commands/demo.ts")).demo,
}

/** Log lines on stderr, with the time of day; stdout holds results only. */
const stderrLogger = Logger.make(({ date, logLevel, message }) => {
  const text = (Array.isArray(message) ? message : [message]).map(String).join(" ")
  noteLine(logLine(date, logLevel._tag.toLowerCase(), text))
})

/** As a value of the fiber: a layer takes 10 ms to be built. */
const logging = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  effect.pipe(
    Effect.locally(FiberRef.currentLoggers, HashSet.make(stderrLogger)),
    Logger.withMinimumLogLevel(isDebug() ? LogLevel.Debug : LogLevel.Info),
  )

/**
 * Runs a command to its end, or to an early one.
 *
 * @param values of its flags, by the names of the table
 * @returns the exit code; what went wrong has been told
 */
export const runCommand = async <C extends CommandName>(
  command: C,
  values: CommandValues<C>,
  earlyEnd: EarlyEnd,
): Promise<number> => {
  const handler = await handlerOf(command, values)
  const fiber = Effect.runFork(logging(handler(values)))
  earlyEnd.onRequest(() => fiber.unsafeInterruptAsFork(fiber.id()))
  const exit = await Effect.runPromise(Fiber.await(fiber))
  const early = earlyEnd.reason()
  if (early !== undefined)
    return early.isSignal && endsBySignal(command, values) ? 0 : early.exitCode
  return Exit.isSuccess(exit) ? 0 : report(exit.cause, command)
}

const handlerOf = async <C extends CommandName>(
  command: C,
  values: CommandValues<C>,
): Promise<Handler<C>> => {
  const isList = "listDevices" in values && values.listDevices === true
  return (await handlers[isList ? "devices" : command]()) as Handler<C>
}

/** What goes on until somebody ends it: that is how it is meant to end. */
const endsBySignal = (command: CommandName, values: object): boolean =>
  command === "serve" ||
  command === "api" ||
  (command === "status" && "watch" in values && values.watch === true)

const report = (cause: Cause.Cause<unknown>, command: CommandName): number => {
  const error = Cause.squash(cause)
  if (!isExpected(error)) {
    noteLine(errorText("ggml-rpc met a case that it does not handle; please report this:"))
    noteLine(Cause.pretty(cause, { renderErrorCause: true }))
    return 1
  }
  if (error instanceof ReportedError) return error.exitCode
  if (isDebug()) noteLine(Cause.pretty(cause, { renderErrorCause: true }))
  const isUsage = usageErrors.has(error._tag)
  noteLine(isUsage ? usageErrorText(error, command) : errorText(error.message))
  return isUsage ? 2 : 1
}

/** What was wrong with the call itself: exit code 2, and where help is. */
const usageErrors: ReadonlySet<string> = new Set([
  ...["UsageError", "EndpointError", "ModelNameError", "SchemaError", "UnknownTemplateError"],
])

/** Errors with a tag are made to be read; anything else is a fault of this program. */
const isExpected = (error: unknown): error is Error & { readonly _tag: string } =>
  error instanceof Error && "_tag" in error && typeof error._tag === "string"
