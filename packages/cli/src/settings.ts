/** The values of a command's flags: from the command line, else the environment, else a file of settings, else their defaults. */
import { allFlagsOf, type CommandLine, CommandLineError } from "./argv.ts"
import { configFile } from "./configFile.ts"
import { type CommandName, type CommandSpec, commands, flagsOf } from "./flags/commands.ts"
import type { Flag, Flags, ReadFlag } from "./flags/Flag.ts"
import type { Source } from "./Source.ts"

type Environment = Readonly<Record<string, string | undefined>>

export interface Settings {
  /** By the names of the table, with the words besides the flags. */
  readonly values: Readonly<Record<string, unknown>>
  /** What is to be said of flags that change nothing. */
  readonly notes: ReadonlyArray<string>
}

/** @throws {CommandLineError} for a wrong value, whatever its source */
export const settingsOf = (
  line: CommandLine & { readonly kind: "command" },
  environment: Environment = process.env,
): Settings => {
  const { command, words } = line
  try {
    const sources = [
      commandLine(line),
      environmentOf(environment),
      configFile(command, line.given.get("config")?.at(-1), environment),
    ]
    const { positional }: CommandSpec = commands[command]
    return {
      values: {
        ...valuesOf(flagsOf(command), withoutBeaten(sources, command)),
        ...(positional && { [positional.key]: words }),
      },
      notes: [...ignoredNotes(command, sources), ...unknownVariables(command, environment)],
    }
  } catch (error) {
    throw error instanceof Error && "_tag" in error
      ? new CommandLineError(error.message, command)
      : error
  }
}

const commandLine = ({ given, words }: CommandLine & { readonly kind: "command" }): Source => ({
  textsOf: ({ name }) => given.get(name),
  nameOf: ({ name }) => `--${name}`,
  words,
})

/** A variable without a value counts as one that is not set. */
const environmentOf = (environment: Environment): Source => {
  const nameOf = ({ env, negations }: ReadFlag): string | undefined =>
    // llama.cpp v0.5.0 common/arg.cpp `get_value_from_env`: LLAMA_ARG_NO_X switches X off, whatever its value is.
    negations !== undefined && env !== undefined && environment[negated(env)] !== undefined
      ? negated(env)
      : env
  return {
    textsOf: (flag) => {
      const name = nameOf(flag)
      if (name === undefined) return undefined
      if (name !== flag.env) return ["off"]
      const text = environment[name]
      return text === undefined || text === "" ? undefined : [text]
    },
    nameOf: (flag) => nameOf(flag) ?? "",
  }
}

const negated = (variable: string): string => variable.replace("LLAMA_ARG_", "LLAMA_ARG_NO_")

const valuesOf = (
  flags: Flags,
  sourcesOf: (flag: Flag<unknown>) => ReadonlyArray<Source>,
): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(flags).map(([key, flag]) => {
      for (const source of sourcesOf(flag)) {
        const texts = source.textsOf(flag)
        if (texts !== undefined) return [key, flag.kind.read(texts, source.nameOf(flag))]
      }
      return [key, flag.default && flag.kind.read([flag.default], `--${flag.name}`)]
    }),
  )

/** The sources of a flag, the strongest first, up to the one that gives it or one of its rivals. */
const withoutBeaten = (sources: ReadonlyArray<Source>, command: CommandName) => {
  const { positional }: CommandSpec = commands[command]
  const flags = Object.values(flagsOf(command))
  const gives = (source: Source, rivals: string): boolean =>
    (positional?.rivals === rivals && (source.words?.length ?? 0) > 0) ||
    flags.some((flag) => flag.rivals === rivals && source.textsOf(flag) !== undefined)
  return ({ rivals }: Flag<unknown>): ReadonlyArray<Source> => {
    if (rivals === undefined) return sources
    const strongest = sources.findIndex((source) => gives(source, rivals))
    return sources.slice(0, strongest + 1)
  }
}

/** Their values are checked all the same: one that asks for something else must not be passed over. */
const ignoredNotes = (
  command: CommandName,
  sources: ReadonlyArray<Source>,
): ReadonlyArray<string> => {
  const { ignored = [] }: CommandSpec = commands[command]
  return ignored.flatMap((flag) => {
    const source = sources.find((candidate) => candidate.textsOf(flag) !== undefined)
    if (source === undefined) return []
    flag.kind.read(source.textsOf(flag)!, source.nameOf(flag))
    return flag.note === undefined ? [] : [`${source.nameOf(flag)} changes nothing: ${flag.note}`]
  })
}

/** Variables that llama.cpp's programs would heed; commands that heed none are not asked. */
const unknownVariables = (
  command: CommandName,
  environment: Environment,
): ReadonlyArray<string> => {
  if (!allFlagsOf(command).some(({ env }) => env !== undefined)) return []
  const known = new Set(
    (Object.keys(commands) as ReadonlyArray<CommandName>)
      .flatMap(allFlagsOf)
      .flatMap(({ env = "" }) => [env, negated(env)]),
  )
  return Object.keys(environment)
    .filter((name) => name.startsWith("LLAMA_ARG_") && !known.has(name))
    .map((name) => `${name} changes nothing: there is no such flag here`)
}
