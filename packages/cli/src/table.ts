/** Text tables. */

export interface Column {
  readonly title: string
  readonly align?: "left" | "right"
  /** May be cut, down to this many characters, when the table is wider than its place. */
  readonly minWidth?: number
  /** Characters, where rows are written one by one (see `tableLine`). */
  readonly width?: number
}

export interface TableOptions {
  /** Characters of a line; no limit unless given. */
  readonly columns?: number
  /** Styles the heading. */
  readonly heading?: (text: string) => string
}

const GAP = 2

const cut = (text: string, width: number): string =>
  text.length <= width ? text : `${text.slice(0, Math.max(0, width - 1))}…`

/** Widths of the columns; the flexible ones give way, the widest first. */
const widthsOf = (
  columns: ReadonlyArray<Column>,
  rows: ReadonlyArray<ReadonlyArray<string>>,
  limit: number,
): ReadonlyArray<number> => {
  const widths = columns.map((column, index) =>
    Math.max(column.title.length, ...rows.map((row) => row[index]!.length)),
  )
  const total = (): number => widths.reduce((sum, width) => sum + width + GAP, -GAP)
  while (total() > limit) {
    let widest = -1
    columns.forEach(({ minWidth }, index) => {
      const canGive = minWidth !== undefined && widths[index]! > minWidth
      if (canGive && (widest < 0 || widths[index]! > widths[widest]!)) widest = index
    })
    if (widest < 0) break
    widths[widest]!--
  }
  return widths
}

const lineOf = (
  columns: ReadonlyArray<Column>,
  widths: ReadonlyArray<number>,
  cells: ReadonlyArray<string>,
): string =>
  cells
    .map((cell, index) => {
      const width = widths[index]!
      const text = cut(cell, width)
      return columns[index]!.align === "right" ? text.padStart(width) : text.padEnd(width)
    })
    .join(" ".repeat(GAP))
    .trimEnd()

const INDENT = "  "

/** A row as lines of its own, the values behind their titles: for a place in which the row does not fit. */
export const formatRecord = (
  columns: ReadonlyArray<Column>,
  [first = "", ...rest]: ReadonlyArray<string>,
  { columns: limit = Number.POSITIVE_INFINITY, heading = (text) => text }: TableOptions,
): string => {
  const lines: Array<string> = []
  for (const [index, value] of rest.entries()) {
    const pair = `${columns[index + 1]!.title} ${value}`
    const last = lines.at(-1)
    // A comma may follow.
    if (last !== undefined && last.length + pair.length + 2 < limit) {
      lines[lines.length - 1] = `${last}, ${pair}`
    } else {
      if (last !== undefined) lines[lines.length - 1] = `${last},`
      lines.push(`${INDENT}${pair}`)
    }
  }
  return [heading(cut(first, limit)), ...lines.map((line) => cut(line, limit))].join("\n")
}

/**
 * Lines with the columns' titles on top, or, where these do not fit, some lines a row; no final line break, no spaces at the
 * ends of lines.
 */
export const formatTable = (
  columns: ReadonlyArray<Column>,
  rows: ReadonlyArray<ReadonlyArray<string>>,
  options: TableOptions = {},
): string => {
  const limit = options.columns ?? Number.POSITIVE_INFINITY
  const widths = widthsOf(columns, rows, limit)
  if (widths.reduce((sum, width) => sum + width + GAP, -GAP) > limit) {
    return rows.map((row) => formatRecord(columns, row, options)).join("\n")
  }
  const heading = options.heading ?? ((text: string) => text)
  const titles = columns.map((column) => column.title)
  return [
    heading(lineOf(columns, widths, titles)),
    ...rows.map((row) => lineOf(columns, widths, row)),
  ].join("\n")
}

/** One line of a table whose rows come one after the other; a column without width takes all it needs. */
export const tableLine = (columns: ReadonlyArray<Column>, cells: ReadonlyArray<string>): string =>
  lineOf(
    columns,
    columns.map((column, index) => column.width ?? cells[index]!.length),
    cells,
  )
