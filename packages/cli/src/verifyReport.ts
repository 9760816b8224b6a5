/** The rows of `verify`, as they come: text or JSON on stdout. */
import { basename } from "node:path"
import type { Cluster } from "@ggml-rpc/client"
import type { Comparison } from "./compare.ts"
import { errorText } from "./failureText.ts"
import { printJson } from "./runReport.ts"
import { type Column, formatRecord, tableLine } from "./table.ts"
import { columnsOf, noteLine, printLine, stderr, stdout, styleOf } from "./terminal.ts"
import { wrap } from "./wrap.ts"

/** What came of one model. */
export interface Verified {
  readonly kind: Cluster.Evaluation["kind"]
  readonly tokenCount: number
  readonly comparison: Comparison
  /** Where tensors were cut over devices: with what comes out when ggml adds up the parts. */
  readonly sums?: Comparison
}

export interface VerifyReport {
  readonly begin: (devices: ReadonlyArray<Cluster.ClusterDevice>) => void
  /** Returns whether the model passed. */
  readonly compared: (path: string, verified: Verified) => boolean
  readonly failed: (path: string, error: Error & { readonly _tag: string }) => false
  readonly end: (passedCount: number, count: number) => void
}

export interface VerifyReportOptions {
  readonly isJson: boolean
  /** What stands in the first column, for its width. */
  readonly names: ReadonlyArray<string>
  /** Largest NMSE that passes. */
  readonly tolerance: number
}

/**
 * Parts of rows are added up in another order than whole rows, and the difference is rounded to steps of quantized activations
 * layer by layer: 1e-3 in 16 layers of random weights (Q8_0). Wrong sums are far beyond it.
 */
const CUT_TOLERANCE = 1e-2

const passes = ({ comparison, sums }: Verified, tolerance: number): boolean =>
  // Not a number is no pass.
  sums === undefined
    ? comparison.nmse <= tolerance
    : sums.nmse <= tolerance && comparison.nmse <= Math.max(tolerance, CUT_TOLERANCE)

export const verifyReport = (options: VerifyReportOptions): VerifyReport =>
  options.isJson ? jsonReport(options) : textReport(options)

const jsonReport = ({ tolerance }: VerifyReportOptions): VerifyReport => ({
  begin: () => {},
  compared: (path, verified) => {
    const isPassed = passes(verified, tolerance)
    const { comparison, kind, sums, tokenCount } = verified
    const { klDivergence, top1Agreement, cosineSimilarity, ...both } = comparison
    const measures =
      kind === "logits" ? { ...both, top1Agreement, klDivergence } : { ...both, cosineSimilarity }
    const ofSums = sums && { sumsNmse: sums.nmse }
    printJson({
      ...{ event: "verify", path, kind, tokenCount, ...measures, ...ofSums, tolerance, isPassed },
    })
    return isPassed
  },
  failed: (path, error) => {
    printJson({
      event: "verify",
      path,
      error: error._tag,
      message: error.message,
      tolerance,
      isPassed: false,
    })
    return false
  },
  end: () => {},
})

/** Characters of all columns but the first. */
const OTHER_COLUMNS = 56
const MIN_NAME_COLUMNS = 12

const columnsFor = (names: ReadonlyArray<string>, columns: number): ReadonlyArray<Column> => [
  {
    title: "model",
    width: Math.max(
      MIN_NAME_COLUMNS,
      Math.min(columns - OTHER_COLUMNS, Math.max(...names.map((name) => name.length))),
    ),
  },
  { title: "max diff", align: "right", width: 8 },
  { title: "NMSE", align: "right", width: 7 },
  { title: "agreement", width: 24 },
  { title: "result" },
]

/** Logits: the token that greedy decoding takes, and the distance of the probabilities. */
const agreementOf = ({ kind, comparison }: Verified): string =>
  kind === "logits"
    ? `top-1 ${(comparison.top1Agreement * 100).toFixed(1)}%, KL ${short(comparison.klDivergence)}`
    : `cosine ${comparison.cosineSimilarity.toFixed(6)}`

/** Sums through servers or the client have the bits of ggml's. */
const resultOf = ({ sums }: Verified): string =>
  sums === undefined ? "ok" : sums.maxAbsDiff === 0 ? "ok, sums exact" : "ok, sums rounded"

const short = (value: number): string => (value === 0 ? "0" : value.toExponential(1))

const textReport = ({ names, tolerance }: VerifyReportOptions): VerifyReport => {
  const limit = columnsOf(stdout)
  const columns = columnsFor(names, limit)
  const isNarrow = limit < MIN_NAME_COLUMNS + OTHER_COLUMNS
  const { bold, red } = styleOf(stdout)
  const row = (path: string, cells: ReadonlyArray<string>): void => {
    const all = [basename(path), ...cells]
    printLine(isNarrow ? formatRecord(columns, all, { columns: limit }) : tableLine(columns, all))
  }
  return {
    begin: (devices) => {
      const places = devices.map(({ name, place }) => `${name} (${place})`).join(", ")
      const text =
        devices.length > 0
          ? `Comparing ${places} with this machine's CPU`
          : "There are no servers (--rpc) and no local GPU: comparing this machine's CPU with itself"
      for (const line of wrap(text, columnsOf(stderr))) noteLine(line)
      if (isNarrow) return
      printLine(
        bold(
          tableLine(
            columns,
            columns.map((column) => column.title),
          ),
        ),
      )
    },
    compared: (path, verified) => {
      const isPassed = passes(verified, tolerance)
      const { maxAbsDiff, nmse } = verified.comparison
      row(path, [
        short(maxAbsDiff),
        short(nmse),
        agreementOf(verified),
        isPassed ? resultOf(verified) : red("DIFFERS"),
      ])
      return isPassed
    },
    failed: (path, error) => {
      row(path, ["–", "–", "–", red("FAILED")])
      const { message } = error
      noteLine(errorText(message.includes(path) ? message : `${path}: ${message}`))
      return false
    },
    end: (passedCount, count) => {
      const verb = passedCount === 1 ? "agrees" : "agree"
      printLine(`${passedCount} of ${count} ${verb} (tolerance: NMSE ${tolerance})`)
    },
  }
}
