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
  /** With activations as bf16 between hosts: how far that is from the same devices with F32. */
  readonly wire?: Comparison
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
  /** Each model is computed with bf16 as well. */
  readonly isBf16: boolean
}

/**
 * Parts of rows are added up in another order than whole rows, and the difference is rounded to steps of quantized activations
 * layer by layer: 1e-3 in 16 layers of random weights (Q8_0). Wrong sums are far beyond it.
 */
const CUT_TOLERANCE = 1e-2

/**
 * Rounding a hidden state to the 8 bits of bf16 once is an NMSE of 1e-6. What follows makes more of it: kernels of quantized weights
 * round to steps, and where experts are chosen another one may be, 4e-3 in random weights. One wrong row of 32 is 3e-2. It is compared
 * with the same devices by itself, so that the bound of the comparison with this machine's CPU stays what it is.
 */
const WIRE_TOLERANCE = 2e-2

// Not a number is no pass.
const passesExact = ({ comparison, sums }: Verified, tolerance: number): boolean =>
  sums === undefined
    ? comparison.nmse <= tolerance
    : sums.nmse <= tolerance && comparison.nmse <= Math.max(tolerance, CUT_TOLERANCE)

const passesWire = ({ wire }: Verified, tolerance: number): boolean =>
  wire === undefined || wire.nmse <= Math.max(tolerance, WIRE_TOLERANCE)

const passes = (verified: Verified, tolerance: number): boolean =>
  passesExact(verified, tolerance) && passesWire(verified, tolerance)

export const verifyReport = (options: VerifyReportOptions): VerifyReport =>
  options.isJson ? jsonReport(options) : textReport(options)

const jsonReport = ({ tolerance }: VerifyReportOptions): VerifyReport => ({
  begin: () => {},
  compared: (path, verified) => {
    const isPassed = passes(verified, tolerance)
    const { comparison, kind, sums, tokenCount, wire } = verified
    const measures = {
      ...measuresOf(kind, comparison),
      ...(sums && { sumsNmse: sums.nmse }),
      ...(wire && { bf16: measuresOf(kind, wire) }),
    }
    printJson({ event: "verify", path, kind, tokenCount, ...measures, tolerance, isPassed })
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

const measuresOf = (
  kind: Verified["kind"],
  { klDivergence, top1Agreement, cosineSimilarity, ...both }: Comparison,
) => (kind === "logits" ? { ...both, top1Agreement, klDivergence } : { ...both, cosineSimilarity })

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
const agreementOf = (kind: Verified["kind"], comparison: Comparison): string =>
  kind === "logits"
    ? `top-1 ${(comparison.top1Agreement * 100).toFixed(1)}%, KL ${short(comparison.klDivergence)}`
    : `cosine ${comparison.cosineSimilarity.toFixed(6)}`

/** Sums through servers or the client have the bits of ggml's. */
const resultOf = ({ sums }: Verified): string =>
  sums === undefined ? "ok" : sums.maxAbsDiff === 0 ? "ok, sums exact" : "ok, sums rounded"

const short = (value: number): string => (value === 0 ? "0" : value.toExponential(1))

/** In place of a model's name, below it. */
const BF16_NAME = "  --wire bf16"

const textReport = ({ isBf16, names, tolerance }: VerifyReportOptions): VerifyReport => {
  const limit = columnsOf(stdout)
  const columns = columnsFor([...names, ...(isBf16 ? [BF16_NAME] : [])], limit)
  const isNarrow = limit < MIN_NAME_COLUMNS + OTHER_COLUMNS
  const { bold, red } = styleOf(stdout)
  const row = (name: string, cells: ReadonlyArray<string>): void => {
    const all = [name, ...cells]
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
      const { comparison, kind, wire } = verified
      const rowOf = (name: string, compared: Comparison, isPassed: boolean, good: string): void =>
        row(name, [
          short(compared.maxAbsDiff),
          short(compared.nmse),
          agreementOf(kind, compared),
          isPassed ? good : red("DIFFERS"),
        ])
      rowOf(basename(path), comparison, passesExact(verified, tolerance), resultOf(verified))
      if (wire !== undefined) {
        rowOf(BF16_NAME, wire, passesWire(verified, tolerance), "ok, for bf16")
      }
      return passes(verified, tolerance)
    },
    failed: (path, error) => {
      row(basename(path), ["–", "–", "–", red("FAILED")])
      const { message } = error
      noteLine(errorText(message.includes(path) ? message : `${path}: ${message}`))
      return false
    },
    end: (passedCount, count) => {
      const verb = passedCount === 1 ? "agrees" : "agree"
      const ofBf16 = isBf16
        ? `; with bf16, from the same devices with F32: ${Math.max(tolerance, WIRE_TOLERANCE)}`
        : ""
      printLine(`${passedCount} of ${count} ${verb} (tolerance: NMSE ${tolerance}${ofBf16})`)
    },
  }
}
