/** What a flag is, and its kinds: how the text of a value becomes what a command gets. */
import { UsageError } from "./UsageError.ts"

/** A flag; `A` is what the command gets, `undefined` or `false` when the flag is not given. */
export interface Flag<A> {
  /** The long name, without its dashes. */
  readonly name: string
  /** Other spellings, with their dashes. */
  readonly aliases: ReadonlyArray<string>
  /** What stands for the value in the help; a flag without it is a switch. */
  readonly value?: string
  /** The value may be missing: these words after the flag are one, and the first is meant without. */
  readonly impliedValues?: ReadonlyArray<string>
  /** Given several times, the values make one list; else the last one counts. */
  readonly isList?: boolean
  /** What stands between them then; a comma where nothing is said. */
  readonly joiner?: string
  readonly about: string
  /** Heading in the help. */
  readonly group: string
  /** @throws {UsageError} */
  readonly parse: (text: string) => A
}

export type FlagValue<F> = F extends Flag<infer A> ? A : never

/** The values of a command's flags, as its handler gets them. */
export type FlagValues<F extends Readonly<Record<string, Flag<unknown>>>> = {
  readonly [K in keyof F]: FlagValue<F[K]>
}

export type Described = Omit<Flag<unknown>, "parse" | "value">

export const toggle = (flag: Described): Flag<boolean> => ({ ...flag, parse: () => true })

export const text = (flag: Described & { readonly value: string }): Flag<string | undefined> => ({
  ...flag,
  parse: (given) => given,
})

/** A text that must be something, as a path must. */
export const nonEmpty = (
  flag: Described & { readonly value: string },
): Flag<string | undefined> => ({
  ...flag,
  parse: (given) => {
    if (given.trim() !== "") return given
    throw new UsageError(`--${flag.name} takes a ${flag.value}, not ''`)
  },
})

/** An amount of memory: `800M`, `1.5G`, as powers of 1024. */
export const size = (flag: Described): Flag<number | undefined> => ({
  ...flag,
  value: "SIZE",
  parse: (given) => {
    const [, digits, unit = ""] = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i.exec(given.trim()) ?? []
    if (digits !== undefined)
      return Math.floor(Number(digits) * 1024 ** UNITS.indexOf(unit.toLowerCase()))
    throw new UsageError(`--${flag.name} takes a size such as 800M or 20G, not '${given}'`)
  },
})

const UNITS: readonly string[] = ["", "k", "m", "g", "t"]

export const choice = <A extends string>(
  flag: Described,
  choices: ReadonlyArray<A>,
  synonyms: Readonly<Record<string, A>> = {},
): Flag<A | undefined> => ({
  ...flag,
  value: choices.length <= 3 ? choices.join("|") : "TYPE",
  parse: (given) => {
    const word = given.toLowerCase()
    const found = choices.find((name) => name === word) ?? synonyms[word]
    if (found !== undefined) return found
    throw new UsageError(`--${flag.name} takes ${listed(choices)}, not '${given}'`)
  },
})

export interface Range {
  readonly min: number
  readonly max?: number
}

export const numberIn = (name: string, given: string, range: Range, isInteger: boolean): number => {
  const value = given.trim() === "" ? Number.NaN : Number(given)
  const { min, max = Number.POSITIVE_INFINITY } = range
  if (value >= min && value <= max && (!isInteger || Number.isInteger(value))) return value
  const kind = isInteger ? "a whole number" : "a number"
  const bounds = Number.isFinite(max) ? `from ${min} to ${max}` : `of at least ${min}`
  throw new UsageError(`--${name} takes ${kind} ${bounds}, not '${given}'`)
}

export const integer = (
  flag: Described & { readonly value?: string },
  range: Range,
): Flag<number | undefined> => ({
  value: "N",
  ...flag,
  parse: (given) => numberIn(flag.name, given, range, true),
})

export const number = (flag: Described, range: Range): Flag<number | undefined> => ({
  value: "X",
  ...flag,
  parse: (given) => numberIn(flag.name, given, range, false),
})

/** Devices may stand between slashes, as for llama.cpp; what has slashes of its own takes another `separator`. */
export const names = (
  flag: Described & { readonly value: string },
  separator = /[,/]+/,
): Flag<Array<string> | undefined> => ({
  ...flag,
  parse: (given) => {
    const found = given.split(separator).map((name) => name.trim())
    if (found.every((name) => name !== "")) return found
    throw new UsageError(`--${flag.name} takes names with commas between them, not '${given}'`)
  },
})

export const numbers = (
  flag: Described & { readonly value: string },
  range: Range,
  options: { readonly isInteger: boolean; readonly separator: RegExp },
): Flag<Array<number> | undefined> => ({
  ...flag,
  parse: (given) =>
    given
      .split(options.separator)
      .map((part) => numberIn(flag.name, part, range, options.isInteger)),
})

const listed = (words: ReadonlyArray<string>): string =>
  words.length < 2
    ? words.join("")
    : `${words.slice(0, -1).join(", ")} or ${words[words.length - 1]}`
