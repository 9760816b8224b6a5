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

/** Lines with the columns' titles on top; no final line break, no spaces at the ends of lines. */
export const formatTable = (
  columns: ReadonlyArray<Column>,
  rows: ReadonlyArray<ReadonlyArray<string>>,
  options: TableOptions = {},
): string => {
  const widths = widthsOf(columns, rows, options.columns ?? Number.POSITIVE_INFINITY)
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
