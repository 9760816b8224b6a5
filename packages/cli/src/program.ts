/** The program behind main.ts. What needs no libraries is answered before any is loaded. */
import packageJson from "../package.json" with { type: "json" }
import { CommandLineError, type Request, readArgs } from "./argv.ts"
import { type EarlyEnd, watchForEarlyEnd } from "./earlyEnd.ts"
import { usageErrorText } from "./failureText.ts"
import { commandHelp, rootHelp } from "./help.ts"
import { columnsOf, flush, noteLine, printLine } from "./terminal.ts"

const HELP_COLUMNS = 100

const help = (request: Request & { kind: "help" }): string => {
  const columns = Math.min(HELP_COLUMNS, columnsOf(process.stdout))
  return request.command === undefined ? rootHelp(columns) : commandHelp(request.command, columns)
}

const run = async (args: ReadonlyArray<string>, earlyEnd: EarlyEnd): Promise<number> => {
  const request = readArgs(args)
  switch (request.kind) {
    case "version":
      printLine(`${packageJson.name} ${packageJson.version}`)
      return 0
    case "help":
      printLine(help(request))
      // A call without any word is a mistake, though the answer is the same.
      return args.length === 0 ? 2 : 0
    case "command": {
      for (const note of request.notes) noteLine(`note: ${note}`)
      const { runCommand } = await import("./app.ts")
      return runCommand(request.args, packageJson.version, earlyEnd)
    }
  }
}

const usageError = (error: unknown): number => {
  if (!(error instanceof CommandLineError)) throw error
  noteLine(usageErrorText(error, error.command))
  return 2
}

/** Does what the arguments say; returns the exit code once all output has left. */
export const main = async (args: ReadonlyArray<string>): Promise<number> => {
  const earlyEnd = watchForEarlyEnd()
  const code = await run(args, earlyEnd).catch(usageError)
  await flush()
  // Output that went nowhere is noticed a moment after the work is done.
  await new Promise((resolve) => setImmediate(resolve))
  const early = earlyEnd.reason()
  return early === undefined || early.isSignal ? code : early.exitCode
}
