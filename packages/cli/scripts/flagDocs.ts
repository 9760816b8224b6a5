/**
 * Writes the tables of commands and flags in the documents, from those of src/flags: `bun packages/cli/scripts/flagDocs.ts
 * --write` after a change there. flagDocs.test.ts fails where they differ.
 */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { type CommandName, commands, flagsOf } from "../src/flags/commands.ts"
import type { Flag } from "../src/flags/Flag.ts"
import { otherwiseOf, usageOf } from "../src/help.ts"

const names = Object.keys(commands) as ReadonlyArray<CommandName>

const table = (rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const [head, ...body] = rows.map((cells) => cells.map((cell) => cell.replaceAll("|", "\\|")))
  const widths = head!.map((_, column) =>
    Math.max(...[head!, ...body].map((cells) => cells[column]!.length)),
  )
  const line = (cells: ReadonlyArray<string>) =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column]!)).join(" | ")} |`
  return [head!, widths.map((width) => "-".repeat(width)), ...body].map(line).join("\n")
}

const commandTable = (): string =>
  table([
    ["command", "what it does"],
    ...names.map((name) => [`\`ggml-rpc ${name}\``, commands[name].about]),
  ])

interface Row {
  readonly flag: Flag<unknown>
  readonly commands: Array<CommandName>
}

/** Flags of the same name that mean the same are one row. */
const rowsOf = (): ReadonlyArray<Row> => {
  const rows = new Map<string, Row>()
  for (const name of names) {
    for (const flag of Object.values(flagsOf(name))) {
      const key = `${flag.group}/${usageOf(flag)}`
      const row = rows.get(key) ?? { flag, commands: [] }
      row.commands.push(name)
      rows.set(key, row)
    }
  }
  return [...rows.values()]
}

const commandsOf = ({ commands: some }: Row): string =>
  some.length === names.length ? "all" : some.join(", ")

const flagTables = (): string =>
  [...Map.groupBy(rowsOf(), ({ flag }) => flag.group)]
    .map(([title, rows]) => {
      const body = rows.map((row) => [
        `\`${usageOf(row.flag)}\``,
        row.flag.about,
        otherwiseOf(row.flag) ?? "",
        row.flag.env === undefined ? "" : `\`${row.flag.env}\``,
        commandsOf(row),
      ])
      return `## ${title}\n\n${table([["flag", "what it does", "default", "variable", "commands"], ...body])}`
    })
    .join("\n\n")

export interface Document {
  readonly path: string
  /** What stands in it between its marks. */
  readonly written: string
  readonly expected: string
}

const root = join(import.meta.dir, "..", "..", "..")

const generated = [
  ["README.md", "commands", commandTable],
  [join("docs", "flags.md"), "flags", flagTables],
] as const

const marksOf = (what: string) =>
  [
    `<!-- ${what}: bun packages/cli/scripts/flagDocs.ts --write -->\n`,
    `\n<!-- /${what} -->`,
  ] as const

export const documents = (): ReadonlyArray<Document> =>
  generated.map(([path, what, make]) => {
    const [begin, end] = marksOf(what)
    const [, rest = ""] = readFileSync(join(root, path), "utf8").split(begin)
    return { path, written: rest.split(end)[0]!, expected: make() }
  })

if (import.meta.main && process.argv.includes("--write")) {
  for (const [path, what, make] of generated) {
    const [begin, end] = marksOf(what)
    const file = join(root, path)
    const [before, rest = ""] = readFileSync(file, "utf8").split(begin)
    const after = rest.slice(rest.indexOf(end))
    writeFileSync(file, `${before}${begin}${make()}${after}`)
  }
}
