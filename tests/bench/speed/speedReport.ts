/** Comparisons of speed as Markdown. */
import { formatNumber, formatSummary, table } from "../markdown.ts"
import { median, summarize } from "../statistics.ts"
import type { Comparison, Gain, Quotient } from "./comparisons.ts"
import type { SpeedMeasured, SpeedSamples, TrafficRow } from "./measureSpeed.ts"
import { promptName, type SpeedTests, streamsName, type Way } from "./ways.ts"

const testNames = ({ prompts, streams }: SpeedTests): readonly string[] => [
  ...prompts.map(promptName),
  ...streams.map(streamsName),
]

/** A way's tokens a second in a round; undefined when it was not run, or failed. */
const rateIn = (
  samples: SpeedSamples,
  way: Way,
  test: string,
  round: number,
): number | undefined => {
  const values = samples[way.name]?.[round]?.rates[test]
  return values === undefined ? undefined : median(values)
}

/**
 * The fastest of some ways by the fastest of others: the median over the rounds, in each of which all ran one after the other.
 * Undefined when one of the two has no result.
 */
export const quotientOf = (
  samples: SpeedSamples,
  { of, by }: Quotient,
  test: string,
): number | undefined => {
  const best = (ways: readonly Way[], round: number): number | undefined => {
    const rates = ways.flatMap((way) => rateIn(samples, way, test, round) ?? [])
    return rates.length === 0 ? undefined : Math.max(...rates)
  }
  const quotients = Array.from({ length: roundCountOf(samples) }, (_, round) => {
    const [upper, lower] = [best(of, round), best(by, round)]
    return upper === undefined || lower === undefined ? [] : [upper / lower]
  }).flat()
  return quotients.length === 0 ? undefined : median(quotients)
}

const roundCountOf = (samples: SpeedSamples): number =>
  Math.max(0, ...Object.values(samples).map((list) => list.length))

const factor = (value: number | undefined): string =>
  value === undefined ? "–" : `${value.toFixed(2)}×`

export const speedTable = ({ comparison, samples }: SpeedMeasured): string => {
  const tests = testNames(comparison.tests)
  const ways = comparison.ways.map((way) => {
    const list = (samples[way.name] ?? []).filter((sample) => sample !== null)
    const cells = tests.map((test) => {
      const values = list.flatMap((sample) => sample.rates[test] ?? [])
      return values.length === 0 ? "–" : formatSummary(summarize(values))
    })
    const cpu = list.map(({ cpuSeconds }) => cpuSeconds)
    return [way.name, ...cells, cpu.length === 0 ? "–" : formatNumber(median(cpu))]
  })
  const quotients = comparison.quotients.map((quotient) => [
    `**${quotient.title}**`,
    ...tests.map((test) => factor(quotientOf(samples, quotient, test))),
    "",
  ])
  return table(["tokens/s", ...tests, "CPU, whole job, s"], [...ways, ...quotients])
}

export const trafficTable = (rows: readonly TrafficRow[]): string =>
  table(
    ["model", "a token", "sent, bytes", "received, bytes", "writes", "waits"],
    rows.map(({ model, way, traffic }) => [
      ...[model, way, traffic.sentBytes.toFixed(0), traffic.receivedBytes.toFixed(0)],
      ...[traffic.writes.toFixed(1), traffic.waits.toFixed(1)],
    ]),
  )

export interface SpeedReport {
  readonly speeds: readonly SpeedMeasured[]
  readonly traffic: readonly TrafficRow[]
}

/** Titles and tables. */
export const speedSections = ({
  speeds,
  traffic,
}: SpeedReport): ReadonlyArray<readonly [string, string]> => [
  ...speeds.map((measured) => [measured.comparison.title, speedTable(measured)] as const),
  ...(traffic.length === 0
    ? []
    : ([["What a token moves, all links together", trafficTable(traffic)]] as const)),
]

/** A row of what somebody gains: how many times as fast ours is, where that was measured. */
export type GainRow = { readonly what: string } & { readonly [G in Gain]?: number }

/** What somebody gains: a row a test. */
export const speedGains = (speeds: readonly SpeedMeasured[]): readonly GainRow[] =>
  speeds.flatMap(({ comparison, samples }) =>
    testNames(comparison.tests).flatMap((test) => {
      const cells = comparison.quotients.flatMap((quotient) => {
        const value = quotientOf(samples, quotient, test)
        return quotient.gain === undefined || value === undefined ? [] : [[quotient.gain, value]]
      })
      const what = `${comparison.what}: ${test}`
      return cells.length === 0 ? [] : [{ what, ...Object.fromEntries(cells) }]
    }),
  )

/** Of what somebody gains, with what was measured otherwise behind it. */
export const gainsOf = (rows: readonly GainRow[]): string =>
  table(
    ["what", "ours: two servers ÷ one", "ours ÷ llama.cpp"],
    rows.map(({ what, second, reference }) => [what, factor(second), factor(reference)]),
  )

/**
 * Measured several times, in several reports: all samples count, and a round stays a round, also where a way failed in one of them and
 * has fewer samples.
 */
export const joinSpeeds = (speeds: readonly SpeedMeasured[]): readonly SpeedMeasured[] => {
  const joined = new Map<string, SpeedMeasured>()
  for (const { comparison, samples } of speeds) {
    const key = keyOf(comparison)
    const before = joined.get(key)?.samples ?? {}
    const roundCount = roundCountOf(before)
    const all = { ...before }
    for (const [way, more] of Object.entries(samples)) {
      const some = before[way] ?? []
      const missing = new Array<null>(roundCount - some.length).fill(null)
      all[way] = [...some, ...missing, ...more]
    }
    joined.set(key, { comparison, samples: all })
  }
  return [...joined.values()]
}

const keyOf = ({ part, title, tests }: Comparison): string => JSON.stringify([part, title, tests])
