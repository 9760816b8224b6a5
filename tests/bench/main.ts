/**
 * `bun run bench`: upstream's RPC server and client against ours, interleaved. See docs/performance.md
 * for what each figure is.
 */
import { readFileSync, writeFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { parseArgs } from "node:util"
import { llamaVersion } from "@ggml-rpc/native/source"
import { ensureModel } from "../models/models.ts"
import { type CommandCase, measureCommands } from "./commands.ts"
import { compareWithLlamaBench } from "./llamaBench.ts"
import { describeMachine, loadAverage } from "./machine.ts"
import { formatNumber } from "./markdown.ts"
import { type Case, type MeasureOptions, measure, type Sample, type Samples } from "./measure.ts"
import { measureMemory } from "./memory.ts"
import {
  type CommandRow,
  formatReport,
  gainsTable,
  type LlamaBenchRow,
  linesOf,
  type Measured,
  type MemoryMeasured,
  mergeReports,
  type Report,
  replaceBetweenMarks,
} from "./report.ts"
import type { PairingName } from "./sides.ts"
import { pairings, setCheckoutBefore } from "./sides.ts"
import {
  type ComparisonOptions,
  comparisonsOf,
  speedParts,
  trafficWays,
} from "./speed/comparisons.ts"
import {
  measureSpeed,
  measureTraffic,
  type SpeedMeasured,
  type TrafficRow,
} from "./speed/measureSpeed.ts"
import { type BenchModel, benchModels, jobFor, workloads } from "./workloads.ts"

const parts = [
  ...speedParts,
  ...(["times", "cache", "commands", "memory", "llama-bench"] as const),
] as const

const usage = `bun run bench [options]
  --quick            small models, one round, one core: whether it all works, in three minutes
  --models A,B       of times, cache, commands, memory and llama-bench: ${benchModels.join(", ")} (default: all)
  --servers 1,2      how many servers share the model (default: 1,2)
  --rounds N         rounds of each pairing in turn (default: 5)
  --pinning P        one-core, free or both (default: both)
  --before DIR       our own of another checkout, set up, in the place of upstream
  --cross            also our client on upstream's server and the other way round
  --only A,B         of ${parts.join(", ")} (default: all)
                       split: one and two servers, layers and tensors, a prompt, 1, 8 and 32 texts; best: the same in Q4_0
                       groups: 2, 8 and 32 texts over layers on one and two servers; prefill: a prompt of 2048 tokens
                       repack: Q4_0, Q4_K and experts over one server against one's own process
                       delay: 0.2, 1 and 5 ms between client and servers; traffic: bytes, writes and waits a token
                       times, cache, commands, memory: start, load, prompt and tokens of one text, and what they take
                       llama-bench: upstream's clients against each other
  --noise CORES      take a sample again, up to three times, while other programs use more (default: off)
  --json FILE        everything measured
  --merge A,B,...    measure nothing: the tables of such files together, measured on the same machine;
                     what is in several of them gets all their samples
  --write-docs       put the tables into docs/performance.md
`

const { values } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    models: { type: "string" },
    servers: { type: "string" },
    rounds: { type: "string" },
    pinning: { type: "string" },
    before: { type: "string" },
    cross: { type: "boolean", default: false },
    only: { type: "string" },
    noise: { type: "string" },
    json: { type: "string" },
    merge: { type: "string" },
    "write-docs": { type: "boolean", default: false },
    help: { type: "boolean", short: "h", default: false },
  },
})

const listOf = <Name extends string>(
  text: string | undefined,
  known: readonly Name[],
  standard: readonly Name[],
): readonly Name[] => {
  if (text === undefined) return standard
  return text
    .split(",")
    .map(
      (part) =>
        known.find((name) => name === part.trim()) ??
        fail(`'${part}' is none of ${known.join(", ")}`),
    )
}

const fail = (message: string): never => {
  process.stderr.write(`bench: ${message}\n\n${usage}`)
  process.exit(2)
}

const countOf = (text: string | undefined, standard: number): number => {
  const count = Number(text ?? standard)
  return Number.isInteger(count) && count > 0 ? count : fail(`'${text}' is not a count`)
}

if (values.help) {
  process.stdout.write(usage)
  process.exit(0)
}

const models = listOf(values.models, benchModels, values.quick ? ["tiny"] : benchModels)
const serverCounts = (values.servers ?? "1,2").split(",").map((text) => countOf(text, 1))
const rounds = countOf(values.rounds, values.quick ? 1 : 5)
/** A run of a large model takes a minute. */
const speedRounds = countOf(values.rounds, values.quick ? 1 : 3)
const only = listOf(values.only, parts, values.quick ? [...speedParts, "times", "commands"] : parts)
const pinning = listOf(
  values.pinning,
  ["one-core", "free", "both"] as const,
  values.quick ? ["one-core"] : ["both"],
)[0]
const pinnings = pinning === "both" ? [true, false] : [pinning === "one-core"]
const reference = values.before === undefined ? "upstream" : "before"
if (values.before !== undefined) setCheckoutBefore(resolve(values.before))
const measuredPairings: readonly PairingName[] = values.cross
  ? (Object.keys(pairings) as PairingName[])
  : [reference, "ours"]

const note = (text: string): void => {
  process.stderr.write(`${text}\n`)
}

const speedOptions: ComparisonOptions = { isQuick: values.quick }

const measureSpeeds = async (): Promise<readonly SpeedMeasured[]> => {
  const measured: SpeedMeasured[] = []
  // They are about upstream: another checkout of ours may have no such command.
  if (values.before !== undefined) return measured
  for (const part of speedParts) {
    if (part === "traffic" || !only.includes(part)) continue
    for (const comparison of comparisonsOf(part, speedOptions)) {
      note(`${comparison.title} (load average ${loadAverage().toFixed(2)})`)
      measured.push(await measureSpeed(comparison, speedRounds, note))
    }
  }
  return measured
}

const measureAllTraffic = async (): Promise<readonly TrafficRow[]> => {
  if (values.before !== undefined || !only.includes("traffic")) return []
  note("bytes, writes and waits a token")
  return measureTraffic(values.quick ? "q8_0" : "middle", trafficWays, note)
}

/** As long as somebody looks at an answer; and none, as in a script. */
const COMMAND_PAUSES_MS = [1000, 0]

const describe = (given: Omit<CommandCase, "pauseMs">): string =>
  [
    given.model,
    `${given.serverCount} server${given.serverCount > 1 ? "s" : ""}`,
    given.pinned ? "one core" : "not pinned",
    ...(given.cacheWarm ? ["cache warm"] : []),
  ].join(", ")

const options: MeasureOptions = {
  rounds,
  pairings: measuredPairings,
  noiseLimitCores: Number(values.noise ?? 0),
  retries: values.noise === undefined ? 0 : 3,
  onSample: (pairing: PairingName, sample: Sample) => {
    const { startToReadyMs, loadCallMs, runs, noiseCores } = sample
    const compute = runs
      .map((run) => `${formatNumber(run.promptMs)}/${formatNumber(run.tokenMs)}`)
      .join(" ")
    note(
      `  ${pairing}: ready ${startToReadyMs.toFixed(0)} ms, load ${formatNumber(loadCallMs)} ms, prompt/token ms ${compute}, noise ${noiseCores.toFixed(2)}`,
    )
  },
}

const measureCase = async (given: Case): Promise<Measured> => {
  note(`${describe(given)} (load average ${loadAverage().toFixed(2)})`)
  const measured = { case: given, samples: await measure(given, options) }
  warnOfDifferentTokens(measured.samples)
  for (const line of linesOf(measured)) {
    note(`  ${line.metric}: ${line.reference} ÷ ours ${line.speedup?.toFixed(2) ?? "–"}`)
  }
  return measured
}

/** Both sides must have done the same work. */
const warnOfDifferentTokens = (samples: Samples): void => {
  const kinds = new Map<string, string[]>()
  for (const [name, list] of Object.entries(samples)) {
    for (const { tokens } of list.flatMap((sample) => sample.runs)) {
      const key = tokens.join(" ")
      kinds.set(key, [...(kinds.get(key) ?? []), name])
    }
  }
  if (kinds.size > 1) {
    const groups = [...kinds.values()].map((names) => [...new Set(names)].join(" and "))
    note(`  NOT THE SAME TOKENS: ${groups.join("; ")}`)
  }
}

const casesOf = async (model: BenchModel): Promise<readonly Case[]> => {
  const job = jobFor(await ensureModel(model), workloads[model])
  const loadOnly = { ...job, prompt: job.prompt.slice(0, 1), generate: 1, repeat: 1 }
  const withCache = only.includes("cache") && model === "large"
  return pinnings.flatMap((pinned) =>
    serverCounts.flatMap((serverCount) => [
      ...(only.includes("times") ? [{ model, serverCount, pinned, cacheWarm: false, job }] : []),
      ...(withCache ? [{ model, serverCount, pinned, cacheWarm: true, job: loadOnly }] : []),
    ]),
  )
}

const measureTimes = async (): Promise<readonly Measured[]> => {
  const measured: Measured[] = []
  for (const model of models) {
    for (const given of await casesOf(model)) measured.push(await measureCase(given))
  }
  return measured
}

const measureAllMemory = async (): Promise<readonly MemoryMeasured[]> => {
  const rows: MemoryMeasured[] = []
  for (const model of models.filter((name) => name === "q8_0" || name === "large")) {
    for (const ubatchSize of [512, 2048]) {
      const job = {
        ...jobFor(await ensureModel(model), { ...workloads[model], promptTokens: ubatchSize }),
        ...{ ubatchSize, contextSize: ubatchSize + 512, generate: 16, repeat: 1 },
      }
      const ours = await measureMemory(model, "ours", job)
      const theirs = await measureMemory(model, reference, job)
      for (const row of [theirs, ours]) rows.push({ ...row, breakdown: ours.breakdown! })
      note(`memory of ${model} at a micro batch of ${ubatchSize} measured`)
    }
  }
  return rows
}

const measureAllCommands = async (): Promise<readonly CommandRow[]> => {
  const rows: CommandRow[] = []
  for (const model of models) {
    // Caches take large weights alone.
    for (const cacheWarm of model === "large" ? [false, true] : [false]) {
      for (const pinned of pinnings) {
        for (const serverCount of serverCounts) {
          for (const pauseMs of COMMAND_PAUSES_MS) {
            const row = { model, serverCount, pinned, cacheWarm, pauseMs }
            rows.push(await measureCommands(row, rounds, reference, options))
            note(`commands with ${describe(row)}, ${pauseMs} ms between two, measured`)
          }
        }
      }
    }
  }
  return rows
}

const measureLlamaBench = async (): Promise<readonly LlamaBenchRow[]> => {
  const rows: LlamaBenchRow[] = []
  for (const model of models.filter((name) => name !== "large")) {
    const job = jobFor(await ensureModel(model), workloads[model])
    rows.push(...(await compareWithLlamaBench(model, job, Math.min(rounds, 3))))
    note(`llama-bench on ${model} measured`)
  }
  return rows
}

const measureAll = async (): Promise<Report> => {
  const before = loadAverage()
  const speeds = await measureSpeeds()
  const traffic = await measureAllTraffic()
  const measured = await measureTimes()
  const commands = only.includes("commands") ? await measureAllCommands() : []
  const memory = only.includes("memory") ? await measureAllMemory() : []
  const llamaBench = only.includes("llama-bench") ? await measureLlamaBench() : []
  return {
    machine: describeMachine(),
    llamaVersion,
    rounds,
    loadAverage: { before, after: loadAverage() },
    speeds,
    traffic,
    measured,
    memory,
    llamaBench,
    commands,
  }
}

const report =
  values.merge === undefined
    ? await measureAll()
    : mergeReports(
        values.merge.split(",").map((path) => JSON.parse(readFileSync(path, "utf8")) as Report),
      )

const text = formatReport(report)
process.stdout.write(`${text}\n`)
if (values.json !== undefined) {
  const lines = report.measured.flatMap(linesOf)
  writeFileSync(values.json, JSON.stringify({ ...report, lines }, null, 1))
}
if (values["write-docs"]) {
  const root = join(import.meta.dir, "..", "..")
  const path = join(root, "docs", "performance.md")
  const withTables = replaceBetweenMarks(readFileSync(path, "utf8"), "bench", text)
  writeFileSync(path, replaceBetweenMarks(withTables, "gains", gainsTable(report)))
  // As `bun run lint` wants tables to look.
  const format = Bun.spawnSync([process.execPath, "x", "biome", "format", "--write", path], {
    cwd: root,
  })
  if (!format.success) note(`${path} is not formatted:\n${format.stderr.toString()}`)
}
