#!/usr/bin/env bun
/**
 * Which versions of the protocol are tested, in which direction. Each test of a cell records that it passed, and
 * `GGML_RPC_ALL_RELEASES=1 bun run check -- --only releases`, then `bun tests/matrix.ts --write`, puts the table into
 * README.md.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { formatVersion, versions } from "@ggml-rpc/protocol"
import { releases } from "./peers/releases.ts"

/** The columns: whose client runs over whose server. */
export type Direction = "ours-upstream" | "upstream-ours" | "ours-ours"

const directions: readonly Direction[] = ["ours-upstream", "upstream-ours", "ours-ours"]

/** A cell of the table: `direction protocol`. */
type Cell = `${Direction} ${string}`

const recordsFolder = join(import.meta.dir, "build", "matrix")
const readmePath = join(import.meta.dir, "..", "README.md")

const recordPath = (direction: Direction, protocol: string): string =>
  join(recordsFolder, `${direction} ${protocol}`)

/** A cell that is tested by `testCount` tests. */
export const cellOf = (direction: Direction, protocol: string, testCount: number) => {
  const path = recordPath(direction, protocol)
  let left = testCount
  return {
    /** Before the first test: forgets an earlier run. */
    begin: (): void => rmSync(path, { force: true }),
    /** At the end of each; after the last, it is recorded. Cells are files, as the tests run in several processes. */
    passed: (): void => {
      if (--left > 0) return
      mkdirSync(recordsFolder, { recursive: true })
      writeFileSync(path, "")
    },
  }
}

const recordedCells = (): ReadonlySet<string> => {
  mkdirSync(recordsFolder, { recursive: true })
  return new Set(readdirSync(recordsFolder))
}

const buildOf = (protocol: string): string | undefined =>
  releases.find((release) => release.protocol === protocol)?.llamaVersion

/** The cells that a run with all releases passes. */
export const allCells = (): ReadonlySet<string> => {
  const protocols = versions.map(({ version }) => formatVersion(version))
  const cells = protocols.flatMap((protocol) =>
    directions
      .filter((direction) => direction === "ours-ours" || buildOf(protocol) !== undefined)
      .map((direction): Cell => `${direction} ${protocol}`),
  )
  return new Set(cells)
}

/** The table of README.md, with the newest version first. */
export const renderMatrix = (passed: ReadonlySet<string>): string => {
  const rows = versions.map(({ version, releases }) => {
    const protocol = formatVersion(version)
    const cells = directions.map((direction) => {
      const cell: Cell = `${direction} ${protocol}`
      if (!passed.has(cell)) return allCells().has(cell) ? "untested" : ""
      return direction === "ours-ours" ? "yes" : (buildOf(protocol) ?? "")
    })
    return [protocol, releases, ...cells]
  })
  const head = [
    ...["protocol", "spoken by"],
    ...["our client, its `rpc-server`", "its client, `ggml-rpc serve`", "both ours"],
  ]
  const widths = head.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column]!.length)),
  )
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column]!)).join(" | ")} |`
  return [line(head), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)].join("\n")
}

const BEGIN = "<!-- versions: bun tests/matrix.ts --write -->"
const END = "<!-- /versions -->"

/**
 * The table between the markers of README.md, and README.md with another one.
 *
 * @throws {Error} when README.md lacks a marker
 */
export const readmeTable = (): {
  readonly table: string
  readonly replaced: (table: string) => string
} => {
  const text = readFileSync(readmePath, "utf8")
  const [before, rest] = text.split(`${BEGIN}\n`)
  const [table, after] = rest?.split(`\n${END}`) ?? []
  if (table === undefined || after === undefined) {
    throw new Error(`README.md needs the lines ${BEGIN} and ${END}`)
  }
  return { table, replaced: (other) => `${before}${BEGIN}\n${other}\n${END}${after}` }
}

if (import.meta.main) {
  const recorded = recordedCells()
  const missing = [...allCells()].filter((cell) => !recorded.has(cell))
  console.log(renderMatrix(recorded))
  if (missing.length > 0) {
    console.error(
      `README.md is left as it is: not passed in their last run are ${missing.join(", ")}`,
    )
    process.exit(1)
  }
  if (process.argv.includes("--write")) {
    writeFileSync(readmePath, readmeTable().replaced(renderMatrix(recorded)))
  }
}
