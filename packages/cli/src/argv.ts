/**
 * Reads a command line into what @effect/cli understands: long flags with separate values, then `--`,
 * then the rest. llama.cpp's flags have names of several letters behind one dash (`-ngl`), values that
 * start with a dash, and may stand behind the model; @effect/cli takes the first for clusters of
 * one-letter flags and names no flag in its messages.
 */
import { type AcceptedFlag, acceptedFlags } from "./acceptedFlags.ts"
import { type CommandName, type CommandSpec, commands, type Flag } from "./flags.ts"
import { UsageError } from "./UsageError.ts"

export type Request =
  | { readonly kind: "help"; readonly command?: CommandName }
  | { readonly kind: "version" }
  /** Arguments for @effect/cli. */
  | {
      readonly kind: "command"
      readonly args: ReadonlyArray<string>
      /** What is to be said of flags that change nothing. */
      readonly notes: ReadonlyArray<string>
    }

/** A command line that cannot be read; `command` says whose help explains it. */
export class CommandLineError extends UsageError {
  readonly command: CommandName | undefined

  constructor(message: string, command?: CommandName) {
    super(message)
    this.command = command
  }
}

const isCommandName = (name: string): name is CommandName => Object.hasOwn(commands, name)

/**
 * @param args what follows the program's name
 * @throws {CommandLineError}
 */
export const readArgs = (args: ReadonlyArray<string>): Request => {
  const [first, ...rest] = args
  if (first === undefined || first === "-h" || first === "--help") return { kind: "help" }
  if (first === "--version") return { kind: "version" }
  if (first === "--completions") return { kind: "command", args, notes: [] }
  if (first === "help") {
    const topic = rest[0]
    if (topic === undefined) return { kind: "help" }
    return { kind: "help", command: commandNamed(topic) }
  }
  return readCommand(commandNamed(first), rest)
}

const commandNamed = (name: string): CommandName => {
  if (isCommandName(name)) return name
  const names = Object.keys(commands)
  const guess = closest(name, names)
  throw new CommandLineError(
    name.startsWith("-")
      ? `a command must come before '${name}': ${names.join(", ")}`
      : `there is no command '${name}'; ${guess === undefined ? `the commands are ${names.join(", ")}` : `did you mean '${guess}'?`}`,
  )
}

const readCommand = (command: CommandName, args: ReadonlyArray<string>): Request => {
  const spec: CommandSpec = commands[command]
  const flags = flagsByName(spec)
  const given = new Map<string, string | undefined>()
  const positionals: Array<string> = []
  const notes: Array<string> = []
  const fail = (message: string): never => {
    throw new CommandLineError(message, command)
  }
  for (let at = 0; at < args.length; at++) {
    const word = args[at]!
    if (word === "--") {
      positionals.push(...args.slice(at + 1))
      break
    }
    if (!word.startsWith("-") || word === "-") {
      positionals.push(word)
      continue
    }
    const equals = word.startsWith("--") ? word.indexOf("=") : -1
    const name = equals < 0 ? word : word.slice(0, equals)
    if (name === "--help" || (name === "-h" && !flags.has("-h"))) return { kind: "help", command }
    const flag = flags.get(name)
    if (flag === undefined) {
      const accepted = acceptedFlags[command]?.find(({ names }) => names.includes(name))
      if (accepted === undefined) return fail(unknownFlag(name, command, [...flags.keys()]))
      const inline = equals < 0 ? undefined : word.slice(equals + 1)
      if (accepted.values !== undefined && inline === undefined) at++
      const problem = checkAccepted(name, accepted, inline ?? args[at])
      if (problem !== undefined) return fail(problem)
      if (accepted.note !== undefined) notes.push(`${name} changes nothing: ${accepted.note}`)
      continue
    }
    if (flag.value === undefined) {
      if (equals >= 0) return fail(`${name} takes no value`)
      given.set(flag.name, undefined)
      continue
    }
    const next = args[at + 1]
    let value: string
    if (equals >= 0) {
      value = word.slice(equals + 1)
    } else if (flag.impliedValues !== undefined) {
      const isNext = next !== undefined && flag.impliedValues.includes(next)
      value = isNext ? next : flag.impliedValues[0]!
      if (isNext) at++
    } else {
      if (next === undefined) return fail(`${name} needs a value: ${name} ${flag.value}`)
      if (flags.has(next)) {
        return fail(
          `${name} needs a value, but '${next}' follows; --${flag.name}=${next} would take it as one`,
        )
      }
      value = next
      at++
    }
    const before = given.get(flag.name)
    const { joiner = "," } = flag
    given.set(flag.name, flag.isList && before !== undefined ? before + joiner + value : value)
  }
  checkPositionals(positionals, spec, fail)
  return { kind: "command", args: [command, ...inOrder(given), "--", ...positionals], notes }
}

/** What is wrong with the value of a flag that changes nothing. */
const checkAccepted = (
  name: string,
  { values }: AcceptedFlag,
  value: string | undefined,
): string | undefined => {
  if (values === undefined) return undefined
  if (value === undefined) return `${name} needs a value`
  if (values === "any" || values.includes(value)) return undefined
  return `${name} ${value} is not what this command does: it knows ${values.join(", ")}`
}

/** Flags as words. Switches first: @effect/cli would take a `yes` or `1` behind one for its value. */
const inOrder = (given: ReadonlyMap<string, string | undefined>): Array<string> => {
  const entries = [...given]
  const switches = entries.filter(([, value]) => value === undefined)
  const valued = entries.filter(([, value]) => value !== undefined)
  return [
    ...switches.map(([name]) => `--${name}`),
    ...valued.flatMap(([name, value]) => [`--${name}`, value!]),
  ]
}

const flagsByName = (spec: CommandSpec): ReadonlyMap<string, Flag<unknown>> =>
  new Map(
    Object.values(spec.flags).flatMap((flag) =>
      [`--${flag.name}`, ...flag.aliases].map((name) => [name, flag] as const),
    ),
  )

const checkPositionals = (
  words: ReadonlyArray<string>,
  spec: CommandSpec,
  fail: (message: string) => never,
): void => {
  const { positional } = spec
  if (positional?.isRepeated || words.length === 0) return
  if (positional === undefined) {
    fail(`'${words[0]}' is one word too many`)
  } else if (words.length > 1) {
    fail(
      positional.name !== "model.gguf"
        ? `'${words[1]}' is one word too many`
        : `'${words[1]}' is one word too many: the model is '${words[0]}'. A prompt needs -p, and quotes when it has spaces`,
    )
  }
}

const unknownFlag = (name: string, command: string, known: ReadonlyArray<string>): string => {
  const guess = closest(name, known)
  return `${command} has no flag ${name}${guess === undefined ? "" : `; did you mean ${guess}?`}`
}

/** The known name that differs least, when that is little enough to be a slip. */
export const closest = (name: string, known: ReadonlyArray<string>): string | undefined => {
  const bare = name.replace(/^-+/, "").toLowerCase()
  if (bare === "") return undefined
  const ranked = known
    .map((candidate) => {
      const other = candidate.replace(/^-+/, "").toLowerCase()
      const isPrefix = bare.length >= 3 && other.startsWith(bare)
      return { candidate, distance: isPrefix ? 0 : editDistance(bare, other) }
    })
    .sort((a, b) => a.distance - b.distance)
  const best = ranked[0]
  return best !== undefined && best.distance <= Math.max(1, Math.floor(bare.length / 3))
    ? best.candidate
    : undefined
}

/** Levenshtein distance; swapped neighbours count as one slip. */
export const editDistance = (a: string, b: string): number => {
  let beforeLast: ReadonlyArray<number> = []
  let last: ReadonlyArray<number> = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (let row = 1; row <= a.length; row++) {
    const current = [row]
    for (let column = 1; column <= b.length; column++) {
      const cost = a[row - 1] === b[column - 1] ? 0 : 1
      let least = Math.min(last[column]! + 1, current[column - 1]! + 1, last[column - 1]! + cost)
      const isSwap = a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]
      if (row > 1 && column > 1 && isSwap) least = Math.min(least, beforeLast[column - 2]! + 1)
      current.push(least)
    }
    beforeLast = last
    last = current
  }
  return last[b.length]!
}
