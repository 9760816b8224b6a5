/** Ways to run a model over servers: whose client on whose servers, how many, and how it is cut. */
import { rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ensurePeers } from "../../peers/peers.ts"
import { startProcess } from "../../peers/process.ts"
import { noState } from "../../servers.ts"
import { groupCpuSeconds } from "../processGroup.ts"
import { commandOf } from "../sides.ts"

export type Tool = "ours" | "upstream"

export interface Way {
  readonly name: string
  readonly client: Tool
  /** Without servers the client computes by itself. */
  readonly server: Tool | "none"
  readonly serverCount: number
  /** More flags of the client. */
  readonly flags: readonly string[]
}

const cut = ["-sm", "tensor"] as const

/** `ggml-rpc bench` on servers of ours. */
export const ours = (serverCount: number, split: "layer" | "tensor" = "layer"): Way => ({
  name: nameOf("ours", serverCount, split),
  client: "ours",
  server: serverCount === 0 ? "none" : "ours",
  serverCount,
  // Even, whatever it measures.
  flags: split === "tensor" ? [...cut, "-ts", Array(serverCount).fill(1).join("/")] : [],
})

/** llama-batched-bench on upstream's servers. */
export const upstream = (serverCount: number, split: "layer" | "tensor" = "layer"): Way => ({
  name: nameOf("llama.cpp", serverCount, split),
  client: "upstream",
  server: serverCount === 0 ? "none" : "upstream",
  serverCount,
  // Its meta device needs Flash Attention.
  flags: split === "tensor" ? [...cut, "-fa", "on"] : [],
})

export const upstreamOnOurs = (serverCount: number): Way => ({
  name: `llama.cpp's client, our server${serverCount > 1 ? "s" : ""}`,
  client: "upstream",
  server: "ours",
  serverCount,
  flags: [],
})

const nameOf = (whose: string, serverCount: number, split: string): string =>
  serverCount === 0
    ? `${whose}, own process`
    : `${whose}, ${serverCount} server${serverCount > 1 ? "s" : ""}${split === "tensor" ? ", tensors cut" : ""}`

/** What is timed: prompts one at a time, and texts so many at once. */
export interface SpeedTests {
  readonly prompts: readonly number[]
  readonly streams: readonly number[]
  /** Tokens of each text. */
  readonly textCount: number
  /** In one process; of several the first is no sample. */
  readonly repeat: number
}

/** Bytes, writes and waits of all links. */
export interface Traffic {
  readonly sentBytes: number
  readonly receivedBytes: number
  readonly writes: number
  readonly waits: number
}

/** What one run of a way gave: tokens a second of all texts together, by the test's name; CPU seconds of all processes. */
export interface SpeedSample {
  readonly rates: Readonly<Record<string, readonly number[]>>
  readonly cpuSeconds: number
}

export const promptName = (tokens: number): string => `prompt of ${tokens}`
export const streamsName = (count: number): string => (count === 1 ? "1 text" : `${count} texts`)

export interface Place {
  readonly modelPath: string
  /** `host:port`, as many as the way has. */
  readonly endpoints: readonly string[]
  /** Process groups of the servers. */
  readonly serverGroups: readonly number[]
  /** Put before the client's command. */
  readonly prefix: readonly string[]
}

/** Runs a way through all tests. @throws {Error} with what the client printed, when it fails */
export const runWay = async (way: Way, place: Place, tests: SpeedTests): Promise<SpeedSample> => {
  const cpuBefore = groupCpuSeconds(place.serverGroups)
  const parts = await (way.client === "ours" ? runOurs : runUpstream)(way, place, tests)
  const rates: Record<string, readonly number[]> = {}
  for (const part of parts) Object.assign(rates, part.rates)
  const clientSeconds = parts.reduce((sum, { cpuSeconds }) => sum + cpuSeconds, 0)
  return {
    rates,
    cpuSeconds: clientSeconds + groupCpuSeconds(place.serverGroups) - cpuBefore,
  }
}

interface OurRow {
  readonly n_prompt: number
  readonly n_gen: number
  readonly n_parallel: number
  readonly samples_ts: readonly number[]
  readonly sent_bytes_per_token: number
  readonly received_bytes_per_token: number
  readonly writes_per_token: number
  readonly waits_per_token: number
}

const ourCommand = (way: Way, place: Place): readonly string[] => {
  const where =
    place.endpoints.length === 0
      ? ["--rpc", "none", "-dev", "none"]
      : ["--rpc", place.endpoints.join(",")]
  return [
    ...[...place.prefix, ...commandOf("ours"), "bench", "-m", place.modelPath, ...where],
    ...["-t", "1", "--no-warmup", "-o", "json", ...way.flags],
  ]
}

/** The first test of each process: from its graph on servers use the time between tests to move weights into large pages. */
const FIRST_PROMPT = 1

/** Bytes that they move in a second, where large pages cost most: so long a user thinks before each question. */
const MOVED_BYTES_PER_SECOND = 350e6

const runOurs = async (way: Way, place: Place, tests: SpeedTests): Promise<SpeedSample[]> => {
  const thinking = Math.round(statSync(place.modelPath).size / MOVED_BYTES_PER_SECOND)
  const command = [
    ...[...ourCommand(way, place), "-r", String(tests.repeat)],
    ...["--delay", String(way.serverCount > 0 ? thinking : 0)],
  ]
  const run = async (flags: readonly string[]): Promise<SpeedSample> => {
    const { stdout, cpuSeconds } = await runTool([...command, ...flags])
    const rows = JSON.parse(stdout) as OurRow[]
    const asked = rows.filter((row) => row.n_prompt !== FIRST_PROMPT)
    const rates = asked.map((row) => [
      row.n_prompt > 0 ? promptName(row.n_prompt) : streamsName(row.n_parallel),
      later(row.samples_ts),
    ])
    return { rates: Object.fromEntries(rates), cpuSeconds }
  }
  return inParts(
    tests,
    () => run(["-p", [FIRST_PROMPT, ...tests.prompts].join(","), "-n", "0"]),
    () =>
      run([
        ...["-p", String(FIRST_PROMPT), "-n", String(tests.textCount)],
        ...["-np", tests.streams.join(",")],
      ]),
  )
}

interface UpstreamRow {
  readonly pp: number
  readonly pl: number
  readonly speed_pp: number
  readonly speed_tg: number
}

const runUpstream = async (way: Way, place: Place, tests: SpeedTests): Promise<SpeedSample[]> => {
  const run = async (
    flags: readonly string[],
    contextSize: number,
    read: (row: UpstreamRow) => readonly [string, number],
  ): Promise<SpeedSample> => {
    const words = [...way.flags, "--output-format", "jsonl", ...flags]
    const command = await upstreamCommand(place, contextSize, words)
    const { stdout, cpuSeconds } = await runTool(command)
    const found = new Map<string, number[]>()
    for (const line of stdout.split("\n").filter((text) => text.startsWith("{"))) {
      const [name, rate] = read(JSON.parse(line) as UpstreamRow)
      found.set(name, [...(found.get(name) ?? []), rate])
    }
    if (found.size === 0) throw new Error(`${command.join(" ")} measured nothing`)
    const rates = [...found].map(([name, values]) => [name, later(values)] as const)
    return { rates: Object.fromEntries(rates), cpuSeconds }
  }
  const repeated = (values: readonly number[]): string =>
    Array.from({ length: tests.repeat }, () => values)
      .flat()
      .join(",")
  const most = Math.max(...tests.streams)
  return inParts(
    tests,
    () =>
      run(
        ["-npp", tests.prompts.join(","), "-ntg", "1", "-npl", repeated([1])],
        Math.max(...tests.prompts) + CONTEXT_STEP,
        ({ pp, speed_pp }) => [promptName(pp), speed_pp],
      ),
    () =>
      run(
        ["-npp", "1", "-ntg", String(tests.textCount), "-npl", repeated(tests.streams)],
        // Each of its sequences has a cache of its own.
        most * Math.ceil((tests.textCount + 1) / CONTEXT_STEP) * CONTEXT_STEP,
        ({ pl, speed_tg }) => [streamsName(pl), speed_tg],
      ),
  )
}

const CONTEXT_STEP = 256

/** llama-batched-bench with one thread and all layers on the servers. */
const upstreamCommand = async (
  { prefix, modelPath, endpoints }: Place,
  contextSize: number,
  flags: readonly string[],
): Promise<readonly string[]> => {
  const { "llama-batched-bench": program } = await ensurePeers(["llama-batched-bench"])
  const where =
    endpoints.length === 0
      ? []
      : ["--rpc", endpoints.join(","), "-ts", endpoints.map(() => "1").join(",")]
  return [
    ...[...prefix, program, "-m", modelPath, ...where, "-t", "1", "-ngl", "99"],
    ...["-c", String(contextSize), ...flags],
  ]
}

/** A longer text and a shorter one: what is moved once falls out of the difference. */
const [SHORT, LONG] = [8, 40]

/** What a client moves for a token of one text. */
export const trafficOf = (way: Way, place: Place): Promise<Traffic> =>
  way.client === "ours" ? ourTraffic(way, place) : upstreamTraffic(way, place)

const ourTraffic = async (way: Way, place: Place): Promise<Traffic> => {
  // The first one sends graphs that stay with the servers.
  const tests = ["-p", "0", "-n", `${LONG},${SHORT},${LONG}`, "-r", "1"]
  const { stdout } = await runTool([...ourCommand(way, place), ...tests])
  const totals = (JSON.parse(stdout) as OurRow[]).map(
    (row): Traffic => ({
      sentBytes: row.sent_bytes_per_token * row.n_gen,
      receivedBytes: row.received_bytes_per_token * row.n_gen,
      writes: row.writes_per_token * row.n_gen,
      waits: row.waits_per_token * row.n_gen,
    }),
  )
  return perToken(totals[1]!, totals[2]!)
}

const upstreamTraffic = async (way: Way, place: Place): Promise<Traffic> => {
  const { "libcount-traffic.so": counter } = await ensurePeers(["libcount-traffic.so"])
  const count = async (tokens: number): Promise<Traffic> => {
    const path = join(tmpdir(), `count-traffic-${Bun.randomUUIDv7()}.json`)
    try {
      const flags = [...way.flags, "-npp", "1", "-ntg", String(tokens), "-npl", "1"]
      const command = await upstreamCommand(place, CONTEXT_STEP, flags)
      await runTool(command, { LD_PRELOAD: counter, COUNT_TRAFFIC: path })
      return (await Bun.file(path).json()) as Traffic
    } finally {
      rmSync(path, { force: true })
    }
  }
  return perToken(await count(SHORT), await count(LONG))
}

const perToken = (few: Traffic, many: Traffic): Traffic => {
  const each = (of: (traffic: Traffic) => number): number => (of(many) - of(few)) / (LONG - SHORT)
  return {
    sentBytes: each((traffic) => traffic.sentBytes),
    receivedBytes: each((traffic) => traffic.receivedBytes),
    writes: each((traffic) => traffic.writes),
    waits: each((traffic) => traffic.waits),
  }
}

/** Prompts and texts have contexts of their own: a process each. */
const inParts = async (
  tests: SpeedTests,
  prompts: () => Promise<SpeedSample>,
  texts: () => Promise<SpeedSample>,
): Promise<SpeedSample[]> => [
  ...(tests.prompts.length > 0 ? [await prompts()] : []),
  ...(tests.streams.length > 0 ? [await texts()] : []),
]

/** Without the first, in which graphs are made and memory is touched for the first time. */
const later = (values: readonly number[]): readonly number[] =>
  values.length > 1 ? values.slice(1) : values

/** A client that is stuck ends here. */
const PATIENCE_MS = 600_000

const runTool = async (
  command: readonly string[],
  env: Record<string, string | undefined> = {},
): Promise<{ readonly stdout: string; readonly cpuSeconds: number }> => {
  await using child = startProcess(command, { env: { ...noState, ...env } })
  const timer = setTimeout(() => void child.stop().catch(() => {}), PATIENCE_MS)
  try {
    const exitCode = await child.exited
    if (exitCode !== 0) {
      throw new Error(
        `${command.join(" ")} ended with exit code ${exitCode}:\n${child.stderr().slice(-2000)}`,
      )
    }
    return { stdout: child.stdout(), cpuSeconds: child.cpuSeconds() ?? 0 }
  } finally {
    clearTimeout(timer)
  }
}
