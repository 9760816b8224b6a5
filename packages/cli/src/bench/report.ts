/** The rows of `bench` on stdout, as they come. */
import type { LinkSpeed } from "@ggml-rpc/client"
import { formatBytes } from "@ggml-rpc/native/bindings"
import { type Column, formatRecord } from "../table.ts"
import { columnsOf, print, printLine, stdout } from "../terminal.ts"
import type { BenchSetting, BenchTest } from "./cases.ts"
import { type BenchRow, fieldsOf, jsonOf, type LinkRow, ratesOf, statisticsOf } from "./rows.ts"

export interface BenchReport {
  readonly begin: () => void
  readonly row: (row: BenchRow) => void
  /** After the last row, or when no more will come. */
  readonly end: () => void
}

export interface BenchReportOptions {
  readonly settings: ReadonlyArray<BenchSetting>
  readonly tests: ReadonlyArray<BenchTest>
  readonly speeds: ReadonlyArray<LinkSpeed>
}

/** `text`: Markdown where the terminal is wide enough, and lines a row where it is not. */
export type BenchFormat = "text" | "md" | "json" | "jsonl" | "csv"

/** Whether a format has a place for the speeds of links. */
export const tellsSpeeds = (format: BenchFormat): boolean => format !== "csv"

export const benchReport = (format: BenchFormat, options: BenchReportOptions): BenchReport =>
  reports[format](options)

const jsonl = ({ speeds }: BenchReportOptions): BenchReport => ({
  begin: () => {},
  row: (row) => printLine(JSON.stringify(jsonOf(row, speeds))),
  end: () => {},
})

const json = ({ speeds }: BenchReportOptions): BenchReport => {
  let count = 0
  return {
    begin: () => print("["),
    row: (row) => {
      const text = JSON.stringify(jsonOf(row, speeds), null, 2).replaceAll("\n", "\n  ")
      print(`${count++ === 0 ? "" : ","}\n  ${text}`)
    },
    end: () => print("\n]\n"),
  }
}

/** As llama-bench writes a cell: all are quoted, and no and yes are 0 and 1. */
const quoted = (value: string | number | boolean): string =>
  `"${String(typeof value === "boolean" ? Number(value) : value).replaceAll('"', '""')}"`

const csv = (): BenchReport => {
  let hasHeading = false
  return {
    begin: () => {},
    row: (row) => {
      const fields = fieldsOf(row)
      if (!hasHeading) printLine(Object.keys(fields).join(","))
      hasHeading = true
      printLine(Object.values(fields).map(quoted).join(","))
    },
    end: () => {},
  }
}

interface MdColumn extends Column {
  readonly width: number
  readonly of: (row: BenchRow) => string
}

/**
 * Titles are llama-bench's, and as there a setting has a column where it is not the usual one, or has several values. The number of
 * texts, which it has not, is one more, threads are always told, and widths are ours.
 */
const columnsFor = ({ settings, tests }: BenchReportOptions): ReadonlyArray<MdColumn> => {
  const differs = <A>(all: ReadonlyArray<A>, of: (one: A) => unknown, usual: unknown): boolean =>
    all.some((one) => of(one) !== usual)
  const optional = (isThere: boolean, column: MdColumn): ReadonlyArray<MdColumn> =>
    isThere ? [column] : []
  const number = (title: string, width: number, of: MdColumn["of"]): MdColumn => ({
    ...{ title, width, align: "right", of },
  })
  const word = (title: string, width: number, of: MdColumn["of"]): MdColumn => ({
    ...{ title, width, of },
  })
  const layersOf = ({ setting: { gpuLayers } }: BenchRow): string =>
    gpuLayers < 0 ? "auto" : gpuLayers > 1_000_000 ? "all" : String(gpuLayers)
  return [
    word("model", 30, ({ model }) => model.type),
    number("size", 10, ({ model }) => sizeText(model.sizeBytes)),
    number("params", 10, ({ model }) => parametersText(model.parameters)),
    word("backend", 10, ({ backends }) => backends),
    ...optional(
      differs(settings, (one) => one.gpuLayers, -1),
      number("ngl", 4, layersOf),
    ),
    number("threads", 7, ({ setting }) => String(setting.threads)),
    ...optional(
      differs(settings, (one) => one.batchSize, 2048),
      number("n_batch", 7, ({ setting }) => String(setting.batchSize)),
    ),
    ...optional(
      differs(settings, (one) => one.ubatchSize, undefined),
      number("n_ubatch", 8, ({ ubatchSize }) => String(ubatchSize)),
    ),
    ...optional(
      differs(settings, (one) => one.typeK, "f16"),
      number("type_k", 6, ({ setting }) => setting.typeK),
    ),
    ...optional(
      differs(settings, (one) => one.typeV, "f16"),
      number("type_v", 6, ({ setting }) => setting.typeV),
    ),
    ...optional(
      differs(settings, (one) => one.flashAttention, "auto"),
      number("fa", 4, ({ setting }) => setting.flashAttention),
    ),
    ...optional(
      differs(settings, (one) => one.splitMode, "layer"),
      number("sm", 6, ({ setting }) => setting.splitMode),
    ),
    ...optional(
      differs(settings, (one) => one.wire, "f32"),
      number("wire", 4, ({ setting }) => setting.wire),
    ),
    ...optional(
      differs(settings, (one) => one.tensorSplit, undefined),
      word("ts", 12, ({ setting }) => setting.tensorSplit?.join("/") ?? ""),
    ),
    ...optional(
      differs(tests, (one) => one.parallel, 1),
      number("np", 4, ({ test }) => String(test.parallel)),
    ),
    number("test", 15, ({ name }) => name),
    number("t/s", 20, rateText),
  ]
}

const sizeText = (bytes: number): string =>
  bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(2)} MiB` : `${(bytes / 2 ** 30).toFixed(2)} GiB`

const parametersText = (count: number): string =>
  count < 1e9 ? `${(count / 1e6).toFixed(2)} M` : `${(count / 1e9).toFixed(2)} B`

const rateText = (row: BenchRow): string => {
  const { mean, deviation } = statisticsOf(ratesOf(row))
  return `${mean.toFixed(2)} ± ${deviation.toFixed(2)}`
}

/** Rows of a Markdown table, or, where its lines do not fit, some lines a row. */
class MdTable {
  readonly #columns: ReadonlyArray<Column & { readonly width: number }>
  readonly #isNarrow: boolean
  readonly #limit: number

  /** @param isKept whatever the terminal's width */
  constructor(columns: ReadonlyArray<Column & { readonly width: number }>, isKept: boolean) {
    const width = columns.reduce((sum, column) => sum + column.width + 3, 1)
    this.#columns = columns
    this.#limit = isKept ? Number.POSITIVE_INFINITY : columnsOf(stdout)
    this.#isNarrow = width > this.#limit
  }

  heading(): void {
    if (this.#isNarrow) return
    this.#line(this.#columns.map(({ title }) => title))
    this.#line(
      this.#columns.map(({ width, align }) =>
        align === "right" ? `${"-".repeat(width - 1)}:` : "-".repeat(width),
      ),
    )
  }

  row(cells: ReadonlyArray<string>): void {
    if (this.#isNarrow) printLine(formatRecord(this.#columns, cells, { columns: this.#limit }))
    else this.#line(cells)
  }

  #line(cells: ReadonlyArray<string>): void {
    const padded = this.#columns.map(({ width, align }, index) =>
      align === "right" ? cells[index]!.padStart(width) : cells[index]!.padEnd(width),
    )
    printLine(`| ${padded.join(" | ")} |`)
  }
}

const mdReport = (options: BenchReportOptions, isKept: boolean): BenchReport => {
  const columns = columnsFor(options)
  const table = new MdTable(columns, isKept)
  const rows: Array<BenchRow> = []
  return {
    begin: () => {},
    row: (row) => {
      // Not before: what is wrong with a model or a server is said without a table.
      if (rows.length === 0) table.heading()
      rows.push(row)
      table.row(columns.map(({ of }) => of(row)))
    },
    end: () => {
      if (rows.length === 0 || options.speeds.length === 0) return
      printSpeeds(options.speeds, isKept)
      printTraffic(rows, isKept)
    },
  }
}

const SERVER_WIDTH = 21

const printSpeeds = (speeds: ReadonlyArray<LinkSpeed>, isKept: boolean): void => {
  const columns = [
    { title: "server", width: serverWidth(speeds) },
    { title: "round trip", width: 10, align: "right" },
    { title: "to it", width: 10, align: "right" },
    { title: "from it", width: 10, align: "right" },
  ] as const
  const table = new MdTable(columns, isKept)
  printLine("")
  table.heading()
  for (const { endpoint, roundTripMs, uploadBytesPerSecond, downloadBytesPerSecond } of speeds) {
    const rate = (perSecond: number | undefined): string =>
      perSecond === undefined ? "–" : `${formatBytes(perSecond)}/s`
    table.row([
      endpoint,
      `${roundTripMs.toFixed(roundTripMs < 10 ? 3 : 1)} ms`,
      rate(uploadBytesPerSecond),
      rate(downloadBytesPerSecond),
    ])
  }
}

const serverWidth = (links: ReadonlyArray<{ readonly endpoint: string }>): number =>
  Math.max(SERVER_WIDTH, ...links.map(({ endpoint }) => endpoint.length))

const printTraffic = (rows: ReadonlyArray<BenchRow>, isKept: boolean): void => {
  const hasSeveral = rows.some(({ test }) => test.parallel > 1)
  const hasWires = rows.some(({ setting }) => setting.wire !== rows[0]?.setting.wire)
  const names = rows.map(({ name, setting, test }) =>
    [name, ...(hasSeveral ? [`× ${test.parallel}`] : []), ...(hasWires ? [setting.wire] : [])].join(
      " ",
    ),
  )
  const columns = [
    { title: "a token of", width: Math.max(15, ...names.map((name) => name.length)) },
    { title: "server", width: serverWidth(rows.flatMap(({ links }) => links)) },
    { title: "sent", width: 9, align: "right" },
    { title: "received", width: 9, align: "right" },
    { title: "writes", width: 6, align: "right" },
    { title: "waits", width: 6, align: "right" },
  ] as const
  const table = new MdTable(columns, isKept)
  printLine("")
  table.heading()
  for (const [index, { links }] of rows.entries()) {
    for (const link of links) table.row([names[index]!, ...trafficCells(link)])
  }
}

const trafficCells = (link: LinkRow): ReadonlyArray<string> => [
  link.endpoint,
  formatBytes(link.sentBytes),
  formatBytes(link.receivedBytes),
  link.writes.toFixed(2),
  link.waits.toFixed(2),
]

const reports: Readonly<Record<BenchFormat, (options: BenchReportOptions) => BenchReport>> = {
  md: (options) => mdReport(options, true),
  text: (options) => mdReport(options, false),
  json,
  jsonl,
  csv,
}
