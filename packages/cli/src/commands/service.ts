/** `ggml-rpc service`: a server that this user's session starts and keeps. */
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs"
import { dirname, sep } from "node:path"
import * as Effect from "effect/Effect"
import { longWords, readArgs } from "../argv.ts"
import { ServiceError } from "../errors.ts"
import type { CommandValues } from "../flags/commands.ts"
import { serveFlags } from "../flags/serve.ts"
import { type ServiceManager, serviceManager } from "../service/place.ts"
import { isStdinTerminal, noteLine, print } from "../terminal.ts"
import { UsageError } from "../UsageError.ts"

type ServiceValues = CommandValues<"service">

export const service = (values: ServiceValues): Effect.Effect<void, ServiceError | UsageError> =>
  Effect.suspend((): Effect.Effect<void, ServiceError | UsageError> => {
    const [action = ""] = values.action
    const manager = serviceManager()
    if (action === "install") return install(manager, values.yes)
    if (action === "remove") return remove(manager)
    return Effect.fail(new UsageError(`service takes one of install, remove, not '${action}'`))
  })

const install = (manager: ServiceManager, isSure: boolean) =>
  Effect.gen(function* () {
    const program = ownProgram()
    const text = manager.describe({
      words: [...program, "serve", ...serveWords(process.argv.slice(2))],
      folder: process.cwd(),
    })
    noteLine(`${manager.path}:\n`)
    print(text)
    if (/\/(_npx|bunx-[^/]*)\//.test(program.at(-1)!)) {
      return yield* Effect.fail(
        new ServiceError({
          message:
            "This ggml-rpc lies in a cache that npx or bunx may empty: install it with 'npm install --global ggml-rpc', and run that one.",
        }),
      )
    }
    if (!isSure && !(isStdinTerminal() && confirm("Install this service and start it?"))) {
      noteLine("Nothing was written; --yes writes this file and starts the service.")
      return
    }
    yield* Effect.try({
      try: () => {
        mkdirSync(dirname(manager.path), { recursive: true })
        writeFileSync(manager.path, text)
      },
      catch: (error) =>
        new ServiceError({
          message: `The service cannot be written to ${manager.path}: ${error instanceof Error ? error.message : String(error)}.`,
        }),
    })
    for (const command of manager.start) yield* execute(command)
    noteLine(["Installed and started.", ...manager.hints].join("\n"))
  })

const remove = (manager: ServiceManager) =>
  Effect.gen(function* () {
    if (!existsSync(manager.path)) {
      noteLine(`No service is installed: there is no ${manager.path}.`)
      return
    }
    // One that is not running, or was never started, is removed all the same.
    for (const command of manager.stop) yield* Effect.ignore(execute(command))
    rmSync(manager.path)
    for (const command of manager.forget) yield* Effect.ignore(execute(command))
    noteLine(`Stopped, and removed ${manager.path}.`)
  })

/** How this very program is started: by its runtime, or as one executable. */
const ownProgram = (): ReadonlyArray<string> =>
  Bun.main.startsWith(`${sep}$bunfs${sep}`) ? [process.execPath] : [process.execPath, Bun.main]

/** The flags for `serve`, by their long names, as they were given to `service install`. */
const serveWords = (args: ReadonlyArray<string>): ReadonlyArray<string> => {
  const line = readArgs(args)
  return line.kind === "command" ? longWords(line.given, serveFlags) : []
}

const execute = (command: ReadonlyArray<string>): Effect.Effect<void, ServiceError> =>
  Effect.suspend(() => {
    const text = command.join(" ")
    if (Bun.which(command[0]!) === null) {
      return Effect.fail(
        new ServiceError({
          message: `The file is written, but there is no ${command[0]} here: where your services are managed, run '${text}'.`,
        }),
      )
    }
    const { exitCode, stderr } = Bun.spawnSync([...command], { stdin: "ignore" })
    if (exitCode === 0) return Effect.void
    return Effect.fail(
      new ServiceError({ message: `'${text}' failed: ${stderr.toString().trim() || exitCode}` }),
    )
  })
