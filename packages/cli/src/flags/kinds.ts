/** The kinds of flags: how the text of a value becomes what a command gets. */
import { UsageError } from "../UsageError.ts"

export interface Kind<A> {
  /** What stands for the value in the help; a kind without it is a switch. */
  readonly value?: string
  /** The value may be missing: these words after the flag are one, and the first is meant without. */
  readonly impliedValues?: ReadonlyArray<string>
  /** Given several times, all of them count; else the last one does. */
  readonly isList?: boolean
  /** The values that there are, for completion. */
  readonly choices?: ReadonlyArray<string>
  /** The value is the path of a file. */
  readonly isPath?: boolean
  /**
   * @param texts one each time that the flag is given; at least one
   * @param source what gave them, as messages name it: `--port`
   * @throws {UsageError}
   */
  readonly read: (texts: readonly [string, ...Array<string>], source: string) => A
}

/** Of several the last one counts. */
const lastOne =
  <A>(read: (text: string, source: string) => A): Kind<A>["read"] =>
  (texts, source) =>
    read(texts[texts.length - 1]!, source)

/** The values of all of them, as if they had been given in one with commas. */
export const joined = <A>(kind: Kind<A>): Kind<A> => ({
  ...kind,
  isList: true,
  read: (texts, source) => kind.read([texts.join(",")], source),
})

// llama.cpp v0.5.0 common/arg.cpp is_truthy, is_falsey
const truthy: ReadonlyArray<string> = ["on", "enabled", "true", "1"]
const falsy: ReadonlyArray<string> = ["off", "disabled", "false", "0"]

/** A switch, as its flags, environment variables and files of settings say it. */
export const onOff: Kind<boolean> = {
  read: lastOne((text, source) => {
    const word = text.toLowerCase()
    if (truthy.includes(word)) return true
    if (falsy.includes(word)) return false
    throw new UsageError(`${source} takes on or off, not '${text}'`)
  }),
}

export const text = (value: string): Kind<string> => ({ value, read: lastOne((given) => given) })

/** A text that must be something. */
export const nonEmpty = (value: string): Kind<string> => ({
  value,
  read: lastOne((given, source) => {
    if (given.trim() !== "") return given
    throw new UsageError(`${source} takes a ${value}, not ''`)
  }),
})

/** A file's path. */
export const path: Kind<string> = { ...nonEmpty("FILE"), isPath: true }

/** Paths of files, with commas between them or one each time. */
export const files: Kind<ReadonlyArray<string>> = {
  ...path,
  isList: true,
  read: (texts, source) =>
    texts.flatMap((text) => text.split(",")).map((file) => path.read([file], source)),
}

/** Texts with anything in them, one each time. */
export const texts = (value: string): Kind<ReadonlyArray<string>> => ({
  value,
  isList: true,
  read: (given) => given,
})

/** An amount of memory: `800M`, `1.5G`, as powers of 1024. */
export const size: Kind<number> = {
  value: "SIZE",
  read: lastOne((given, source) => {
    const [, digits, unit = ""] = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i.exec(given.trim()) ?? []
    if (digits !== undefined)
      return Math.floor(Number(digits) * 1024 ** UNITS.indexOf(unit.toLowerCase()))
    throw new UsageError(`${source} takes a size such as 800M or 20G, not '${given}'`)
  }),
}

const UNITS: readonly string[] = ["", "k", "m", "g", "t"]

export const choice = <const A extends string>(
  choices: ReadonlyArray<A>,
  synonyms: Readonly<Record<string, A>> = {},
): Kind<A> => ({
  value: choices.length <= 3 ? choices.join("|") : "TYPE",
  choices,
  read: lastOne((given, source) => {
    const word = given.toLowerCase()
    const found = choices.find((name) => name === word) ?? synonyms[word]
    if (found !== undefined) return found
    throw new UsageError(`${source} takes ${listed(choices)}, not '${given}'`)
  }),
})

const onOffAuto = ["on", "off", "auto"] as const

/** `on`, `off` or `auto`; alone the flag means on. */
export const optionalOnOffAuto: Kind<(typeof onOffAuto)[number]> = {
  ...choice(onOffAuto, {
    ...Object.fromEntries(truthy.map((word) => [word, "on" as const])),
    ...Object.fromEntries(falsy.map((word) => [word, "off" as const])),
    "-1": "auto",
  }),
  impliedValues: [...onOffAuto, ...truthy, ...falsy, "-1"],
}

export interface Range {
  readonly min: number
  readonly max?: number
}

const numberIn = (given: string, source: string, range: Range, isInteger: boolean): number => {
  const value = given.trim() === "" ? Number.NaN : Number(given)
  const { min, max = Number.POSITIVE_INFINITY } = range
  if (value >= min && value <= max && (!isInteger || Number.isInteger(value))) return value
  const kind = isInteger ? "a whole number" : "a number"
  const bounds = Number.isFinite(max) ? `from ${min} to ${max}` : `of at least ${min}`
  throw new UsageError(`${source} takes ${kind} ${bounds}, not '${given}'`)
}

export const integer = (range: Range): Kind<number> => ({
  value: "N",
  read: lastOne((given, source) => numberIn(given, source, range, true)),
})

export const number = (range: Range): Kind<number> => ({
  value: "X",
  read: lastOne((given, source) => numberIn(given, source, range, false)),
})

/** A number, or one of some words that stand for numbers or for none. */
export const integerOr = <A>(
  range: Range,
  words: Readonly<Record<string, A>>,
): Kind<number | A> => ({
  value: ["N", ...Object.keys(words).filter((word) => !/\d/.test(word))].join("|"),
  read: lastOne((given, source) =>
    Object.hasOwn(words, given) ? words[given]! : numberIn(given, source, range, true),
  ),
})

/** Devices may stand between slashes, as for llama.cpp; what has slashes of its own takes another `separator`. */
export const names = (value: string, separator = /[,/]+/): Kind<ReadonlyArray<string>> => ({
  value,
  read: lastOne((given, source) => {
    const found = given.split(separator).map((name) => name.trim())
    if (found.every((name) => name !== "")) return found
    throw new UsageError(`${source} takes names with commas between them, not '${given}'`)
  }),
})

export const numbers = (
  value: string,
  range: Range,
  options: { readonly isInteger: boolean; readonly separator: RegExp },
): Kind<ReadonlyArray<number>> => ({
  value,
  read: lastOne((given, source) =>
    given.split(options.separator).map((part) => numberIn(part, source, range, options.isInteger)),
  ),
})

/** Values with commas between them, or one each time: every one of them is meant. */
export const several = <A>(kind: Kind<A>): Kind<ReadonlyArray<A>> => ({
  ...kind,
  value: `${kind.value ?? "X"},…`,
  isList: true,
  read: (texts, source) =>
    texts.flatMap((text) => text.split(",")).map((part) => kind.read([part], source)),
})

/** The most values of one flag: each is a measurement. */
const MOST_VALUES = 1000

/** The same of whole numbers, and llama-bench's ranges of them: `first-last`, `first-last+step`, `first-last*factor`. */
export const ranges = (range: Range): Kind<ReadonlyArray<number>> => ({
  value: "N,…",
  isList: true,
  read: (texts, source) => {
    const parts = texts.flatMap((text) => text.split(","))
    const found = parts.flatMap((part) => numbersOf(part.trim(), source, range))
    if (found.length <= MOST_VALUES) return found
    throw tooMany(source)
  },
})

const tooMany = (source: string): UsageError =>
  new UsageError(
    `${source} names more than ${MOST_VALUES} values, each of which is measured: take a larger step, such as 0-4096+512`,
  )

const numbersOf = (part: string, source: string, range: Range): ReadonlyArray<number> => {
  const [, first, last, how = "+", by = "1"] = /^(\d+)-(\d+)(?:([+*])(\d+))?$/.exec(part) ?? []
  if (first === undefined || last === undefined) return [numberIn(part, source, range, true)]
  const [from, to] = [first, last].map((text) => numberIn(text, source, range, true))
  const next = (value: number): number => (how === "+" ? value + Number(by) : value * Number(by))
  const found: Array<number> = []
  for (let value = from!; value <= to!; value = next(value)) {
    if (next(value) <= value) {
      throw new UsageError(
        `${source} takes ranges that end, such as 1-8+1 or 1-32*2, not '${part}'`,
      )
    }
    if (found.length === MOST_VALUES) throw tooMany(source)
    found.push(value)
  }
  if (found.length > 0) return found
  throw new UsageError(`${source} takes ranges that rise, such as 1-8, not '${part}'`)
}

const listed = (words: ReadonlyArray<string>): string =>
  words.length < 2
    ? words.join("")
    : `${words.slice(0, -1).join(", ")} or ${words[words.length - 1]}`
