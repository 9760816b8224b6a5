/** Numbers and tables in Markdown. */
import type { Summary } from "./statistics.ts"

/** Three digits that count, no exponent. */
export const formatNumber = (value: number): string => {
  if (value === 0) return "0"
  const decimals = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))))
  return value.toFixed(Math.min(decimals, 3))
}

/** The median, with the smallest and the largest where there are several. */
export const formatSummary = (summary: Summary | undefined): string => {
  if (summary === undefined) return ""
  const middle = formatNumber(summary.median)
  return summary.count < 2
    ? middle
    : `${middle} (${formatNumber(summary.min)}–${formatNumber(summary.max)})`
}

export const table = (header: readonly string[], rows: ReadonlyArray<readonly string[]>): string =>
  [header, header.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n")
