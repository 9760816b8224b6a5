/** The program behind main.ts. What needs no libraries is answered before any is loaded. */
import { startEarly } from "@ggml-rpc/client/early"
import packageJson from "../package.json" with { type: "json" }
import { type CommandLine, CommandLineError, readArgs } from "./argv.ts"
import { type EarlyEnd, watchForEarlyEnd } from "./earlyEnd.ts"
import { usageErrorText } from "./failureText.ts"
import type { CommandName, CommandValues } from "./flags/commands.ts"
import { commandHelp, rootHelp } from "./help.ts"
import { settingsOf } from "./settings.ts"
import { columnsOf, noteLine, printLine, stdout } from "./terminal.ts"

const HELP_COLUMNS = 100

/** Commands that run a model: its engine starts while the command's modules are found and read. */
const startsEngine: ReadonlySet<CommandName> = new Set(["run", "chat", "api", "embed", "plan"])

const help = (line: CommandLine & { kind: "help" }): string => {
  const columns = Math.min(HELP_COLUMNS, columnsOf(stdout))
  return line.command === undefined ? rootHelp(columns) : commandHelp(line.command, columns)
}

const run = async (args: ReadonlyArray<string>, earlyEnd: EarlyEnd): Promise<number> => {
  const line = readArgs(args)
  switch (line.kind) {
    case "version":
      printLine(`${packageJson.name} ${packageJson.version}`)
      return 0
    case "help":
      printLine(help(line))
      // A call without any word is a mistake, though the answer is the same.
      return args.length === 0 ? 2 : 0
    case "command": {
      const { values, notes } = settingsOf(line)
      for (const note of notes) noteLine(`note: ${note}`)
      if (startsEngine.has(line.command)) startEarly()
      const { runCommand } = await import("./app.ts")
      return runCommand(line.command, values as CommandValues<CommandName>, earlyEnd)
    }
  }
}

const usageError = async (error: unknown, args: ReadonlyArray<string>): Promise<number> => {
  if (!(error instanceof CommandLineError)) throw error
  if (args.includes("--json")) {
    const { printErrorEvent } = await import("./jsonErrors.ts")
    printErrorEvent(error)
  }
  noteLine(usageErrorText(error, error.command))
  return 2
}

/** Does what the arguments say; returns the exit code. */
export const main = async (args: ReadonlyArray<string>): Promise<number> => {
  const earlyEnd = watchForEarlyEnd()
  const code = await run(args, earlyEnd).catch((error) => usageError(error, args))
  const early = earlyEnd.reason()
  return early === undefined || early.isSignal ? code : early.exitCode
}
