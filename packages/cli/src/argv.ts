/**
 * Reads a command line by the tables of flags/, with yargs' parser: single-dash names of several letters as llama.cpp has them
 * (`-ngl`), values that start with a dash, flags behind the model.
 */
import type { Options } from "yargs-parser"
// The same parser without Node's modules, which are for files of settings and take 6 ms to load.
import parser from "yargs-parser/browser"
import { closest, closestFlag } from "./closest.ts"
import { type CommandName, type CommandSpec, commands, flagsOf } from "./flags/commands.ts"
import { allSpellings, type Flags, type ReadFlag, spellings, type Texts } from "./flags/Flag.ts"
import { UsageError } from "./UsageError.ts"

/** A command line that cannot be followed. */
export class CommandLineError extends UsageError {
  /** Whose help explains it. */
  readonly command: CommandName | undefined

  constructor(message: string, command?: CommandName) {
    super(message)
    this.command = command
  }
}

/** By the long names of the flags. */
export type GivenTexts = ReadonlyMap<string, Texts>

export type CommandLine =
  | { readonly kind: "help"; readonly command?: CommandName }
  | { readonly kind: "version" }
  | {
      readonly kind: "command"
      readonly command: CommandName
      readonly given: GivenTexts
      /** What stands besides the flags. */
      readonly words: ReadonlyArray<string>
    }

const isCommandName = (name: string): name is CommandName => Object.hasOwn(commands, name)

/**
 * @param args what follows the program's name
 * @throws {CommandLineError}
 */
export const readArgs = (args: ReadonlyArray<string>): CommandLine => {
  const [first, ...rest] = args
  if (first === undefined || first === "-h" || first === "--help") return { kind: "help" }
  if (first === "--version") return { kind: "version" }
  if (first === "help") {
    const topic = rest[0]
    if (topic === undefined) return { kind: "help" }
    return { kind: "help", command: commandNamed(topic) }
  }
  // As for llama-cli, which has no commands.
  if (first === "--list-devices") return readCommand("devices", rest)
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

const readCommand = (command: CommandName, args: ReadonlyArray<string>): CommandLine => {
  const flags = allFlagsOf(command)
  const fail = (message: string): never => {
    throw new CommandLineError(message, command)
  }
  const { argv, error } = parser.detailed([...args], parserOptions(flags.filter(occursIn(args))))
  const { _: before, "--": behind = [], ...values } = argv
  if ("help" in values) return { kind: "help", command }
  if ("version" in values) return { kind: "version" }
  if (error !== null) return fail(explain(error, flags, args))
  const known = new Set(flags.flatMap(allSpellings).map(keyOf))
  const unknown = Object.keys(values).find((key) => !known.has(key))
  if (unknown !== undefined) return fail(unknownFlag(wordWith(unknown, args), command))

  const given = new Map<string, Texts>()
  const words = [...before, ...behind].map(String)
  for (const flag of flags) {
    const { texts, others } = takeTexts(flag, values, args)
    words.push(...others)
    if (!isSome(texts)) continue
    const next = texts.find((text) => flags.some((other) => allSpellings(other).includes(text)))
    const name = next === undefined ? undefined : wordBefore(next, flag, args)
    if (name !== undefined) {
      return fail(
        `${name} needs a value, but '${next}' follows; --${flag.name}=${next} would take it as one`,
      )
    }
    given.set(flag.name, texts)
  }
  const extra = extraWord(words, commands[command])
  return extra === undefined ? { kind: "command", command, given, words } : fail(extra)
}

/** What was given for these flags, as words of a command line. */
export const longWords = (given: GivenTexts, flags: Flags): ReadonlyArray<string> =>
  Object.values(flags).flatMap(({ name, kind, negations = [] }) =>
    (given.get(name) ?? []).flatMap((text) => {
      if (kind.value !== undefined) return [`--${name}`, text]
      return text === "on" ? [`--${name}`] : negations.slice(0, 1)
    }),
  )

/** Those that the command ignores among them. */
export const allFlagsOf = (command: CommandName): ReadonlyArray<ReadFlag> => {
  const { ignored = [] }: CommandSpec = commands[command]
  return [...Object.values(flagsOf(command)), ...ignored]
}

const negationsOf = ({ negations = [] }: ReadFlag): ReadonlyArray<string> => negations

const isFlag = (word: string): boolean => word.startsWith("-")

/** What yargs' parser knows a word by. */
const keyOf = (word: string): string => word.replace(/^--?/, "").replace(/=.*$/s, "")

/** Whether the parser need know a flag: it takes 10 ms with all of them. */
const occursIn = (args: ReadonlyArray<string>): ((flag: ReadFlag) => boolean) => {
  const keys = new Set(args.map(keyOf))
  return (flag) => allSpellings(flag).some((name) => keys.has(keyOf(name)))
}

/** Every value is a text, and a flag takes the next word or none: no other notions of yargs' parser apply. */
const parserOptions = (flags: ReadonlyArray<ReadFlag>): Options => {
  const valued = flags.filter(({ kind }) => kind.value !== undefined)
  const counted = flags.filter(({ kind }) => kind.impliedValues === undefined)
  return {
    string: valued.map(({ name }) => name),
    alias: Object.fromEntries(
      flags.map(({ name, aliases = [] }) => [name, aliases.map(keyOf)] as const),
    ),
    narg: Object.fromEntries([
      ...counted.map(({ name, kind }) => [name, kind.value === undefined ? 0 : 1] as const),
      ...flags.flatMap(negationsOf).map((name) => [keyOf(name), 0] as const),
    ]),
    configuration: {
      "boolean-negation": false,
      "camel-case-expansion": false,
      "dot-notation": false,
      "nargs-eats-options": true,
      "parse-numbers": false,
      "parse-positional-numbers": false,
      "populate--": true,
      "short-option-groups": false,
      "strip-aliased": true,
    },
  }
}

/** The parser's message ends with the key of a flag that has a value too many, or too few. */
const explain = (
  { message }: Error,
  flags: ReadonlyArray<ReadFlag>,
  args: ReadonlyArray<string>,
): string => {
  const key = message.slice(message.lastIndexOf(" ") + 1)
  const name = wordWith(key, args)
  const flag = flags.find((candidate) => allSpellings(candidate).some((one) => keyOf(one) === key))
  return flag?.kind.value === undefined
    ? `${name} takes no value`
    : `${name} needs a value: ${name} ${flag.kind.value}`
}

/** A flag as it stands in the command line. */
const wordWith = (key: string, args: ReadonlyArray<string>): string => {
  const word = args.findLast((candidate) => isFlag(candidate) && keyOf(candidate) === key)
  return (word ?? key).replace(/=.*$/s, "")
}

/** The flag's name where the text is the word behind it, not one that is given with an equals sign. */
const wordBefore = (
  text: string,
  flag: ReadFlag,
  args: ReadonlyArray<string>,
): string | undefined => {
  const keys = spellings(flag).map(keyOf)
  return args.find(
    (word, at) => isFlag(word) && keys.includes(keyOf(word)) && args[at + 1] === text,
  )
}

const isSome = (texts: ReadonlyArray<string>): texts is Texts => texts.length > 0

/** The flag's values, and words that the parser took for one. */
const takeTexts = (
  flag: ReadFlag,
  values: Readonly<Record<string, unknown>>,
  args: ReadonlyArray<string>,
): { readonly texts: ReadonlyArray<string>; readonly others: ReadonlyArray<string> } => {
  const { value, impliedValues } = flag.kind
  if (value === undefined) return { texts: switchTexts(flag, values, args), others: [] }
  const texts = [values[flag.name] ?? []].flat().map(String)
  if (impliedValues === undefined) return { texts, others: [] }
  const isOther = (text: string) =>
    !impliedValues.includes(text) && wordBefore(text, flag, args) !== undefined
  return {
    texts: texts.map((text) => (text === "" || isOther(text) ? impliedValues[0]! : text)),
    others: texts.filter(isOther),
  }
}

/** `on` or `off`, as the last of its spellings says. */
const switchTexts = (
  flag: ReadFlag,
  values: Readonly<Record<string, unknown>>,
  args: ReadonlyArray<string>,
): ReadonlyArray<string> => {
  const lastOf = (names: ReadonlyArray<string>): number =>
    args.findLastIndex((word) => isFlag(word) && names.some((name) => keyOf(word) === keyOf(name)))
  const negations = negationsOf(flag)
  const isGiven = [flag.name, ...negations.map(keyOf)].some((key) => key in values)
  if (!isGiven) return []
  return [lastOf(spellings(flag)) >= lastOf(negations) ? "on" : "off"]
}

const extraWord = (
  words: ReadonlyArray<string>,
  { positional }: CommandSpec,
): string | undefined => {
  if (positional === undefined) {
    return words.length === 0 ? undefined : `'${words[0]}' is one word too many`
  }
  if (positional.isRepeated || words.length < 2) return undefined
  const extra = `'${words[1]}' is one word too many`
  return positional.name === "model.gguf"
    ? `${extra}: the model is '${words[0]}'. A prompt needs -p, and quotes when it has spaces`
    : extra
}

const unknownFlag = (name: string, command: CommandName): string => {
  const guess = closestFlag(name, Object.values(flagsOf(command)).flatMap(allSpellings))
  return `${command} has no flag ${name}${guess === undefined ? "" : `; did you mean ${guess}?`}`
}
