/** The measurements as Markdown. */
import type { CommandCase } from "./commands.ts"
import type { Machine } from "./machine.ts"
import { formatNumber, formatSummary, table } from "./markdown.ts"
import type { Case, Sample, Samples } from "./measure.ts"
import type { MemoryRow } from "./memory.ts"
import type { Breakdown, DeviceBytes, PairingName } from "./sides.ts"
import {
  gainsOf,
  joinSpeeds,
  type SpeedReport,
  speedGains,
  speedSections,
} from "./speed/speedReport.ts"
import { median, pairedSpeedup, type Summary, speedup, summarize } from "./statistics.ts"

export interface Measured {
  readonly case: Case
  readonly samples: Samples
}

export interface MemoryMeasured extends MemoryRow {
  /** As our client's ggml says; the same graphs need the same on both sides. */
  readonly breakdown: Breakdown
}

export interface LlamaBenchRow {
  readonly model: string
  readonly what: string
  readonly llamaBench: Summary
  readonly upstreamClient: Summary
}

export interface CommandRow extends CommandCase {
  /** Milliseconds, in the order of the rounds; upstream's `llama-completion` or our command before. */
  readonly reference: readonly number[]
  readonly referenceName: string
  readonly ggmlRpcRun: readonly number[]
}

export interface Report extends SpeedReport {
  readonly machine: Machine
  readonly llamaVersion: string
  readonly rounds: number
  readonly loadAverage: { readonly before: number; readonly after: number }
  readonly measured: readonly Measured[]
  readonly memory: readonly MemoryMeasured[]
  readonly llamaBench: readonly LlamaBenchRow[]
  readonly commands: readonly CommandRow[]
}

interface Metric {
  readonly name: string
  readonly unit: string
  /** One value for each sample. */
  readonly of: (sample: Sample) => number
}

const loadMetrics: readonly Metric[] = [
  { name: "start to ready", unit: "ms", of: (sample) => sample.startToReadyMs },
  { name: "load call", unit: "ms", of: (sample) => sample.loadCallMs },
]

const computeMetrics = (promptTokens: number): readonly Metric[] => [
  {
    name: `prompt ${promptTokens}`,
    unit: "ms",
    of: ({ runs }) => median(runs.map((run) => run.promptMs)),
  },
  {
    name: "generate, per token",
    unit: "ms",
    of: ({ runs }) => median(runs.map((run) => run.tokenMs)),
  },
]

const cpuMetric: Metric = {
  name: "CPU, whole job",
  unit: "s",
  of: (sample) => sample.clientCpuSeconds + sample.serverCpuSeconds,
}

export const metricsOf = ({ job }: Case): readonly Metric[] => [
  ...loadMetrics,
  ...(job.generate > 1 ? computeMetrics(job.prompt.length) : []),
  cpuMetric,
]

export interface Line {
  readonly case: Case
  readonly metric: string
  readonly unit: string
  readonly values: Partial<Record<PairingName, Summary>>
  /** What ours is compared with. */
  readonly reference: "upstream" | "before"
  /** Of the reference to "ours", the comparison that matters. */
  readonly speedup: number | undefined
  readonly pairedSpeedup: number | undefined
}

export const linesOf = ({ case: given, samples }: Measured): readonly Line[] =>
  metricsOf(given).map((metric) => {
    const valuesOf = (name: PairingName) => (samples[name] ?? []).map(metric.of)
    const names = Object.keys(samples) as PairingName[]
    const values = Object.fromEntries(names.map((name) => [name, summarize(valuesOf(name))]))
    const reference = samples.upstream === undefined && samples.before ? "before" : "upstream"
    const both = samples[reference] !== undefined && samples.ours !== undefined
    return {
      case: given,
      metric: metric.name,
      unit: metric.unit,
      values,
      reference,
      speedup: both ? speedup(values[reference]!, values.ours!) : undefined,
      pairedSpeedup: both ? pairedSpeedup(valuesOf(reference), valuesOf("ours")) : undefined,
    }
  })

export const timesTable = (measured: readonly Measured[]): string => {
  const lines = measured.flatMap(linesOf)
  const names = [...new Set(lines.flatMap((line) => Object.keys(line.values)))] as PairingName[]
  return table(
    ["model", "servers", "what", ...names, `${lines[0]?.reference ?? "upstream"} ÷ ours`],
    lines.map((line) => [
      line.case.model,
      String(line.case.serverCount),
      `${line.metric}, ${line.unit}`,
      ...names.map((name) => formatSummary(line.values[name])),
      line.speedup === undefined ? "" : `${line.speedup.toFixed(2)}`,
    ]),
  )
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(0)

const sum = ({ weightBytes, contextBytes, computeBytes }: DeviceBytes): number =>
  weightBytes + contextBytes + computeBytes

export const memoryTable = (rows: readonly MemoryMeasured[]): string =>
  table(
    [
      "model",
      "micro batch",
      "side",
      "server, loading: above its weights",
      "server: peak",
      "above weights, KV, compute",
      "above the model file",
      "client: peak",
      "above the model file",
      "without files",
    ],
    rows.map(({ model, ubatchSize, side, fileBytes, memory, breakdown }) => {
      const weights = breakdown.devices.reduce((total, device) => total + device.weightBytes, 0)
      const buffers = breakdown.devices.reduce((total, device) => total + sum(device), 0)
      const { client, server, serverLoading } = memory
      return [
        model,
        String(ubatchSize),
        side,
        megabytes(serverLoading.pssBytes - weights),
        megabytes(server.pssBytes),
        megabytes(server.pssBytes - buffers),
        megabytes(server.pssBytes - fileBytes),
        megabytes(client.pssBytes),
        megabytes(client.pssBytes - fileBytes),
        megabytes(client.anonymousBytes),
      ]
    }),
  )

const llamaBenchTable = (rows: readonly LlamaBenchRow[]): string =>
  table(
    ["model", "what", "llama-bench", "upstream-client", "llama-bench ÷ upstream-client"],
    rows.map((row) => [
      row.model,
      row.what,
      formatSummary(row.llamaBench),
      formatSummary(row.upstreamClient),
      speedup(row.llamaBench, row.upstreamClient).toFixed(2),
    ]),
  )

const commandTable = (rows: readonly CommandRow[]): string =>
  table(
    [
      ...["model", "servers", "caches", "processes", "one after the other"],
      ...[rows[0]!.referenceName, "ggml-rpc run", "the first ÷ ours"],
    ],
    rows.map((row) => {
      const reference = summarize(row.reference)
      const ours = summarize(row.ggmlRpcRun)
      return [
        row.model,
        String(row.serverCount),
        row.cacheWarm ? "warm" : "none",
        row.pinned ? "one core" : "not pinned",
        row.pauseMs === 0 ? "at once" : `${row.pauseMs / 1000} s later`,
        formatSummary(reference),
        formatSummary(ours),
        speedup(reference, ours).toFixed(2),
      ]
    }),
  )

const machineLine = ({ machine, llamaVersion }: Report): string => {
  const gigabytes = Math.round(machine.memoryBytes / 2 ** 30)
  const cores = `${machine.coreCount} ${machine.isVirtual ? "virtual " : ""}cores`
  return `${machine.processor}, ${cores}, ${gigabytes} GiB, ${machine.system}; llama.cpp ${llamaVersion}, Bun ${machine.bunVersion}.`
}

const part = (title: string, body: string): string => `### ${title}\n\n${body}`

/** How often each case was measured, which differs in merged reports. */
const roundsText = (report: Report): string => {
  const counts = [...report.measured, ...report.speeds].flatMap(({ samples }) =>
    Object.values<readonly unknown[]>(samples).map(({ length }) => length),
  )
  const [least, most] = [Math.min(...counts), Math.max(...counts)]
  if (counts.length === 0) return String(report.rounds)
  return least === most ? String(least) : `${least} to ${most}`
}

export const formatReport = (report: Report): string => {
  const noise = report.measured.flatMap(({ samples }) =>
    Object.values(samples).flatMap((list) => list.map((sample) => sample.noiseCores)),
  )
  const cases = (pinned: boolean, warm: boolean): readonly Measured[] =>
    report.measured.filter(
      ({ case: { pinned: isPinned, cacheWarm } }) => isPinned === pinned && cacheWarm === warm,
    )
  const times = [
    ["All processes on one core", cases(true, false)],
    ["Not pinned", cases(false, false)],
    ["Server cache warm, one core", cases(true, true)],
    ["Server cache warm, not pinned", cases(false, true)],
  ] as const
  return [
    [
      machineLine(report),
      `${roundsText(report)} ${roundsText(report) === "1" ? "round" : "rounds"}.`,
      noise.length === 0
        ? ""
        : `Other programs used ${formatNumber(median(noise))} cores during a sample (median; at most ${formatNumber(Math.max(...noise))}).`,
    ]
      .join(" ")
      .trim(),
    ...speedSections(report).map(([title, body]) => part(title, body)),
    ...times.flatMap(([title, list]) => (list.length > 0 ? [part(title, timesTable(list))] : [])),
    ...(report.commands.length > 0
      ? [part("Whole commands, load and one token, milliseconds", commandTable(report.commands))]
      : []),
    ...(report.memory.length > 0
      ? [part("Peak memory, MB (proportional set size)", memoryTable(report.memory))]
      : []),
    ...(report.llamaBench.length > 0
      ? [
          part(
            "Upstream's clients against each other, milliseconds",
            llamaBenchTable(report.llamaBench),
          ),
        ]
      : []),
  ].join("\n\n")
}

/** A case that was measured several times gets the samples of all. */
const joinCases = (measured: readonly Measured[]): readonly Measured[] => {
  const joined = new Map<string, Measured>()
  for (const next of measured) {
    const key = JSON.stringify(next.case)
    const before = joined.get(key)?.samples ?? {}
    const samples: Samples = { ...before }
    for (const [name, more] of Object.entries(next.samples) as [PairingName, Sample[]][]) {
      samples[name] = [...(before[name] ?? []), ...more]
    }
    joined.set(key, { case: next.case, samples })
  }
  return [...joined.values()]
}

/** Reports of one machine as one: machine, versions and load average are the first's. */
export const mergeReports = (reports: readonly Report[]): Report => {
  const [first] = reports
  if (first === undefined) throw new RangeError("no report to merge")
  return {
    ...first,
    rounds: Math.min(...reports.map((report) => report.rounds)),
    measured: joinCases(reports.flatMap((report) => report.measured)),
    speeds: joinSpeeds(reports.flatMap((report) => report.speeds)),
    traffic: reports.flatMap((report) => report.traffic),
    memory: reports.flatMap((report) => report.memory),
    llamaBench: reports.flatMap((report) => report.llamaBench),
    commands: reports.flatMap((report) => report.commands),
  }
}

const placeOf = ({ pinned, cacheWarm }: Pick<CommandCase, "pinned" | "cacheWarm">): string =>
  `${cacheWarm ? "servers' caches warm" : "nothing cached"}, ${pinned ? "one core" : "not pinned"}`

const caseName = (
  given: Pick<CommandCase, "model" | "serverCount" | "pinned" | "cacheWarm">,
): string =>
  `${given.model}, ${given.serverCount} server${given.serverCount > 1 ? "s" : ""}, ${placeOf(given)}`

/** What a user gains, in one table: only what was measured. */
export const gainsTable = (report: Report): string => {
  const loads = report.measured.flatMap((measured) =>
    linesOf(measured)
      .filter(({ metric, speedup }) => metric === "load call" && speedup !== undefined)
      .map(({ case: given, speedup }) => ({
        what: `loading ${caseName(given)}`,
        reference: speedup!,
      })),
  )
  // Those right behind another one are in their own table: people make a pause.
  const commands = report.commands
    .filter(({ pauseMs }) => pauseMs > 0)
    .map(({ reference, ggmlRpcRun, ...given }) => ({
      what: `a whole command with one token, ${caseName(given)}`,
      reference: speedup(summarize(reference), summarize(ggmlRpcRun)),
    }))
  return gainsOf([...speedGains(report.speeds), ...loads, ...commands])
}

/** Around what is written into a document. */
export const marksOf = (what: "bench" | "gains") =>
  [`<!-- ${what}: begin -->`, `<!-- ${what}: end -->`] as const

/**
 * The document with what is between the marks replaced.
 *
 * @throws {Error} when the marks are not there, once each and in order
 */
export const replaceBetweenMarks = (
  document: string,
  what: "bench" | "gains",
  text: string,
): string => {
  const [begin, end] = marksOf(what)
  const [before, rest, ...moreBegins] = document.split(begin)
  const [, after, ...moreEnds] = rest?.split(end) ?? []
  if (after === undefined || moreBegins.length + moreEnds.length > 0) {
    throw new Error(`the document needs "${begin}" and then "${end}", once each`)
  }
  return `${before}${begin}\n\n${text}\n\n${end}${after}`
}
