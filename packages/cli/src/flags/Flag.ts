/** What a flag is. The tables beside this file have all of them, and commands.ts says which command takes which. */
import { type Kind, onOff } from "./kinds.ts"

/** A flag; `A` is what a command gets for it. */
export interface Flag<A> {
  /** The long name, without its dashes. */
  readonly name: string
  /** Other spellings, with their dashes. */
  readonly aliases?: ReadonlyArray<string>
  /** Spellings that switch it off; of them and the others the last one counts. Switches only. */
  readonly negations?: ReadonlyArray<string>
  /** The environment variable with llama.cpp's value for it. */
  readonly env?: string
  readonly kind: Kind<A>
  /** The value where nothing gives one, as it would be typed. */
  readonly default?: string
  /** What is done where nothing gives a value, and somebody else decides: in words. */
  readonly unset?: string
  readonly about: string
  /** Heading in the help. */
  readonly group: string
  /**
   * A word that flags share of which one is meant: where a strong source gives one of them (the command line, say), those of
   * weaker sources do not count.
   */
  readonly rivals?: string
}

/** What a command line and other sources are read by. */
export type ReadFlag = Pick<Flag<unknown>, "name" | "aliases" | "negations" | "env" | "kind">

/** What a flag was given, one each time. */
export type Texts = readonly [string, ...Array<string>]

/** Flags by the names that a command's code has for their values. */
export type Flags = Readonly<Record<string, Flag<unknown>>>

export type FlagValue<F> = F extends Flag<infer A> ? A : never

/** The values of a command's flags, as its handler gets them. */
export type FlagValues<F extends Flags> = { readonly [K in keyof F]: FlagValue<F[K]> }

type Described = Omit<Flag<unknown>, "kind" | "default" | "negations">

export function flag<A>(
  flag: Described & { readonly kind: Kind<A>; readonly default: string },
): Flag<A>
export function flag<A>(flag: Described & { readonly kind: Kind<A> }): Flag<A | undefined>
export function flag<A>(flag: Flag<A>): Flag<A> {
  return flag
}

/** A switch, off by default unless it says otherwise. */
export const toggle = (
  flag: Described & { readonly negations?: ReadonlyArray<string>; readonly default?: "on" | "off" },
): Flag<boolean> => ({ default: "off", ...flag, kind: onOff })

/** All spellings, those that negate it last. */
export const allSpellings = (flag: ReadFlag): ReadonlyArray<string> => [
  ...spellings(flag),
  ...(flag.negations ?? []),
]

/** The spellings that mean the flag itself, the long name first. */
export const spellings = ({ name, aliases = [] }: ReadFlag): ReadonlyArray<string> => [
  `--${name}`,
  ...aliases,
]
