/** The help pages, made from the tables of flags/. */
import { type CommandName, type CommandSpec, commands, flagsOf } from "./flags/commands.ts"
import type { Flag } from "./flags/Flag.ts"
import { wrap } from "./wrap.ts"

const INDENT = 2
/** Columns at which descriptions start. */
const COMMAND_COLUMN = 14
const FLAG_COLUMN = 30

const entry = (
  left: string,
  about: string,
  start: number,
  columns: number,
): ReadonlyArray<string> => {
  const label = `${" ".repeat(INDENT)}${left}`
  const lines = wrap(about, Math.max(20, columns - start))
  const indented = lines.map((line) => `${" ".repeat(start)}${line}`)
  if (label.length + 2 > start) return [label, ...indented]
  return [`${label.padEnd(start)}${lines[0]}`, ...indented.slice(1)]
}

/** Short names first: `-c, --ctx-size N`. */
export const usageOf = ({ name, aliases = [], negations = [], kind }: Flag<unknown>): string => {
  const short = aliases.filter((alias) => !alias.startsWith("--"))
  const long = aliases.filter((alias) => alias.startsWith("--"))
  const names = [...short, `--${name}`, ...long, ...negations].join(", ")
  if (kind.value === undefined) return names
  return `${names} ${kind.impliedValues === undefined ? kind.value : `[${kind.value}]`}`
}

/** What holds where nobody gives a value; of a switch its text tells it. */
export const otherwiseOf = ({ kind, unset, default: value }: Flag<unknown>): string | undefined =>
  unset ?? (kind.value === undefined ? undefined : value)

/** What it does, what holds without it, and its variable: `… (default: 512, env: LLAMA_ARG_UBATCH)`. */
const aboutOf = (flag: Flag<unknown>): string => {
  const { about, env } = flag
  const otherwise = otherwiseOf(flag)
  const facts = [
    ...(otherwise === undefined ? [] : [`default: ${otherwise}`]),
    ...(env === undefined ? [] : [`env: ${env}`]),
  ]
  return facts.length === 0 ? about : `${about} (${facts.join(", ")})`
}

export const rootHelp = (columns: number): string => {
  const lines = Object.entries(commands).flatMap(([name, { about }]) =>
    entry(name, about, COMMAND_COLUMN, columns),
  )
  return [
    ...wrap("Run one GGUF model across many machines, over llama.cpp's RPC protocol.", columns),
    "",
    "Usage: ggml-rpc <command> [flags]",
    "",
    "Commands:",
    ...lines,
    "",
    ...wrap(
      "'ggml-rpc <command> --help' explains a command; 'ggml-rpc --version' tells the version. GGML_RPC_DEBUG=1 shows what libraries log and the stack of an error.",
      columns,
    ),
  ].join("\n")
}

export const commandHelp = (name: CommandName, columns: number): string => {
  const spec: CommandSpec = commands[name]
  const { positional } = spec
  const argument = positional === undefined ? "" : ` ${positional.name}`
  const groups = Map.groupBy(Object.values(flagsOf(name)), (flag) => flag.group)
  return [
    `${spec.about}.`,
    "",
    `Usage: ggml-rpc ${name} [flags]${argument}${positional?.isRepeated ? " …" : ""}`,
    ...[...groups].flatMap(([title, flags]) => [
      "",
      `${title}:`,
      ...flags.flatMap((flag) => entry(usageOf(flag), aboutOf(flag), FLAG_COLUMN, columns)),
    ]),
    ...(spec.notes ?? []).flatMap((note) => ["", ...wrap(note, columns)]),
    "",
    spec.examples.length > 1 ? "Examples:" : "Example:",
    ...spec.examples.map((example) => `  ${example}`),
  ].join("\n")
}
