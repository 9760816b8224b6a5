/** The commands as @effect/cli commands, and what their ends mean as exit codes. */
import * as Args from "@effect/cli/Args"
import * as CliConfig from "@effect/cli/CliConfig"
import * as Command from "@effect/cli/Command"
import * as HelpDoc from "@effect/cli/HelpDoc"
import * as Options from "@effect/cli/Options"
import * as ValidationError from "@effect/cli/ValidationError"
import * as BunFileSystem from "@effect/platform-bun/BunFileSystem"
import * as BunPath from "@effect/platform-bun/BunPath"
import * as BunTerminal from "@effect/platform-bun/BunTerminal"
import * as Cause from "effect/Cause"
import type * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import { isDebug } from "./debug.ts"
import type { EarlyEnd } from "./earlyEnd.ts"
import { ReportedError } from "./errors.ts"
import { errorText, usageErrorText } from "./failureText.ts"
import {
  cacheFlags,
  commands,
  demoFlags,
  devicesFlags,
  type Flag,
  type FlagValue,
  lsFlags,
  planFlags,
  pullFlags,
  rmFlags,
  runFlags,
  serveFlags,
  serviceFlags,
  statusFlags,
  verifyFlags,
} from "./flags.ts"
import { logLine } from "./serverLog.ts"
import { noteLine } from "./terminal.ts"

type Flags = Readonly<Record<string, Flag<unknown>>>
type FlagOptions<F extends Flags> = { readonly [K in keyof F]: Options.Options<FlagValue<F[K]>> }

const optionOf = (flag: Flag<unknown>): Options.Options<unknown> => {
  if (flag.value === undefined) {
    return Options.boolean(flag.name).pipe(Options.withDescription(flag.about))
  }
  return Options.text(flag.name).pipe(
    Options.withPseudoName(flag.value),
    Options.withDescription(flag.about),
    Options.mapTryCatch(
      (text) => flag.parse(text),
      (error) => HelpDoc.p(error instanceof Error ? error.message : String(error)),
    ),
    Options.withDefault<unknown>(undefined),
  )
}

const optionsOf = <F extends Flags>(flags: F): FlagOptions<F> =>
  Object.fromEntries(
    Object.entries(flags).map(([key, flag]) => [key, optionOf(flag)]),
  ) as FlagOptions<F>

/** argv.ts has counted them already. */
const files = Args.text({ name: "model" }).pipe(Args.repeated)

/** Loads a command's code when it is called: `--version` and a usage error need none of it. */
const lazily = <M, E>(
  load: () => Promise<M>,
  call: (module: M) => Effect.Effect<void, E>,
): Effect.Effect<void, E> => Effect.flatMap(Effect.promise(load), call)

const run = Command.make("run", { ...optionsOf(runFlags), files }, (values) =>
  lazily(
    () => import("./commands/run.ts"),
    (module) => module.run(values),
  ),
).pipe(Command.withDescription(commands.run.about))

const serve = Command.make("serve", optionsOf(serveFlags), (values) =>
  lazily(
    () => import("./commands/serve.ts"),
    (module) => module.serve(values),
  ),
).pipe(Command.withDescription(commands.serve.about))

const devices = Command.make("devices", optionsOf(devicesFlags), (values) =>
  lazily(
    () => import("./commands/devices.ts"),
    (module) => module.devices(values),
  ),
).pipe(Command.withDescription(commands.devices.about))

const plan = Command.make("plan", { ...optionsOf(planFlags), files }, (values) =>
  lazily(
    () => import("./commands/plan.ts"),
    (module) => module.plan(values),
  ),
).pipe(Command.withDescription(commands.plan.about))

const verify = Command.make("verify", { ...optionsOf(verifyFlags), files }, (values) =>
  lazily(
    () => import("./commands/verify.ts"),
    (module) => module.verify(values),
  ),
).pipe(Command.withDescription(commands.verify.about))

const action = Args.text({ name: "action" }).pipe(Args.repeated)

const cache = Command.make("cache", { ...optionsOf(cacheFlags), action: action }, (values) =>
  lazily(
    () => import("./commands/cache.ts"),
    (module) => module.cache(values),
  ),
).pipe(Command.withDescription(commands.cache.about))

const service = Command.make("service", { ...optionsOf(serviceFlags), action: action }, (values) =>
  lazily(
    () => import("./commands/service.ts"),
    (module) => module.service(values),
  ),
).pipe(Command.withDescription(commands.service.about))

const modelNames = Args.text({ name: "name" }).pipe(Args.repeated)

const pull = Command.make("pull", { ...optionsOf(pullFlags), names: modelNames }, (values) =>
  lazily(
    () => import("./commands/pull.ts"),
    (module) => module.pull(values),
  ),
).pipe(Command.withDescription(commands.pull.about))

const ls = Command.make("ls", optionsOf(lsFlags), (values) =>
  lazily(
    () => import("./commands/ls.ts"),
    (module) => module.ls(values),
  ),
).pipe(Command.withDescription(commands.ls.about))

const rm = Command.make("rm", { ...optionsOf(rmFlags), names: modelNames }, (values) =>
  lazily(
    () => import("./commands/rm.ts"),
    (module) => module.rm(values),
  ),
).pipe(Command.withDescription(commands.rm.about))

const demo = Command.make("demo", optionsOf(demoFlags), (values) =>
  lazily(
    () => import("./commands/demo.ts"),
    (module) => module.demo(values),
  ),
).pipe(Command.withDescription(commands.demo.about))

const status = Command.make("status", optionsOf(statusFlags), (values) =>
  lazily(
    () => import("./commands/status.ts"),
    (module) => module.status(values),
  ),
).pipe(Command.withDescription(commands.status.about))

const root = Command.make("ggml-rpc").pipe(
  Command.withSubcommands([
    run,
    serve,
    devices,
    status,
    plan,
    verify,
    pull,
    ls,
    rm,
    cache,
    service,
    demo,
  ]),
)

/** @effect/cli prints its messages itself, in colours; here they come back as errors instead. */
const withoutMessages = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.flatMap(Effect.console, (console) =>
    Effect.withConsole(effect, { ...console, error: () => Effect.void } as Console.Console),
  )

/** Log lines on stderr, with the time of day; stdout holds results only. */
const stderrLogger = Logger.make(({ date, logLevel, message }) => {
  const text = (Array.isArray(message) ? message : [message]).map(String).join(" ")
  noteLine(logLine(date, logLevel._tag.toLowerCase(), text))
})

const environment = Layer.mergeAll(
  BunFileSystem.layer,
  BunPath.layer,
  BunTerminal.layer,
  CliConfig.layer({ isCaseSensitive: true }),
  Logger.replace(Logger.defaultLogger, stderrLogger),
  Logger.minimumLogLevel(isDebug() ? LogLevel.Debug : LogLevel.Info),
)

/**
 * Runs a command to its end, or to an early one.
 *
 * @param args as argv.ts makes them
 * @returns the exit code; what went wrong has been told
 */
export const runCommand = async (
  args: ReadonlyArray<string>,
  version: string,
  earlyEnd: EarlyEnd,
): Promise<number> => {
  const program = Command.run(root, { name: "ggml-rpc", version, executable: "ggml-rpc" })
  const fiber = Effect.runFork(
    withoutMessages(program(["bun", "ggml-rpc", ...args])).pipe(Effect.provide(environment)),
  )
  earlyEnd.onRequest(() => fiber.unsafeInterruptAsFork(fiber.id()))
  const exit = await Effect.runPromise(Fiber.await(fiber))
  const early = earlyEnd.reason()
  if (early !== undefined) return early.isSignal && endsBySignal(args) ? 0 : early.exitCode
  return Exit.isSuccess(exit) ? 0 : report(exit.cause, args[0])
}

/** What goes on until somebody ends it: that is how it is meant to end. */
const endsBySignal = ([command, ...flags]: ReadonlyArray<string>): boolean =>
  command === "serve" || (command === "status" && flags.includes("--watch"))

const report = (cause: Cause.Cause<unknown>, command: string | undefined): number => {
  const error = Cause.squash(cause)
  if (ValidationError.isValidationError(error)) {
    const text = HelpDoc.toAnsiText(error.error)
    noteLine(usageErrorText(new Error(Bun.stripANSI(text).trim()), command))
    return 2
  }
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
const usageErrors: ReadonlySet<string> = new Set(["UsageError", "EndpointError", "ModelNameError"])

/** Errors with a tag are made to be read; anything else is a fault of this program. */
const isExpected = (error: unknown): error is Error & { readonly _tag: string } =>
  error instanceof Error && "_tag" in error && typeof error._tag === "string"
