/** Times: the same job by all pairings in turn, round after round. */
import { mkdtempSync, rmSync } from "node:fs"
import { cpus, tmpdir } from "node:os"
import { join } from "node:path"
import type { ServerProcess } from "../peers/process.ts"
import { busyCpuSeconds, waitForQuiet } from "./machine.ts"
import {
  type ClientJob,
  type ClientResult,
  type PairingName,
  pairings,
  type RunningClient,
  runClient,
  type Side,
  startBenchServer,
  startClient,
} from "./sides.ts"
import type { BenchModel } from "./workloads.ts"

/** One situation that is measured. */
export interface Case {
  readonly model: BenchModel
  readonly serverCount: number
  /** All processes on one core, which takes the hand-over between cores out of the picture. */
  readonly pinned: boolean
  /** The servers have the weights in their caches. */
  readonly cacheWarm: boolean
  readonly job: ClientJob
}

export interface Noise {
  /** Cores that other programs used meanwhile, on average. */
  readonly noiseCores: number
}

export type Sample = ClientResult & Noise

export type Samples = Partial<Record<PairingName, Sample[]>>

/** Samples with more noise than the limit are taken again, up to `retries` times; the quietest counts. */
export interface NoiseOptions {
  readonly noiseLimitCores: number
  readonly retries: number
}

export interface MeasureOptions extends NoiseOptions {
  readonly rounds: number
  readonly pairings: readonly PairingName[]
  readonly onSample: (pairing: PairingName, sample: Sample) => void
}

/** The last core: interrupts are most often served by the first. */
export const pinnedPrefix = (): readonly string[] => ["taskset", "-c", String(cpus().length - 1)]

/** Where servers have caches, our clients remember what weights hash to as well. Both are empty at first. */
export const startServers = async (
  sides: Iterable<Side>,
  { pinned, serverCount, cacheWarm }: Pick<Case, "pinned" | "serverCount" | "cacheWarm">,
  cleanup: AsyncDisposableStack,
): Promise<ReadonlyMap<Side, readonly ServerProcess[]>> => {
  const prefix = pinned ? pinnedPrefix() : []
  const folder = mkdtempSync(join(tmpdir(), "ggml-rpc-bench-"))
  cleanup.defer(() => rmSync(folder, { recursive: true, force: true }))
  const hashes = process.env.GGML_RPC_WEIGHT_HASHES
  process.env.GGML_RPC_WEIGHT_HASHES = cacheWarm ? join(folder, "hashes") : "none"
  cleanup.defer(() => {
    if (hashes === undefined) delete process.env.GGML_RPC_WEIGHT_HASHES
    else process.env.GGML_RPC_WEIGHT_HASHES = hashes
  })
  const servers = new Map<Side, ServerProcess[]>()
  for (const side of sides) {
    const started: ServerProcess[] = []
    for (let index = 0; index < serverCount; index++) {
      const cacheDir = cacheWarm ? join(folder, `${side}-${index}`) : undefined
      started.push(cleanup.use(await startBenchServer({ side, prefix, cacheDir })))
    }
    servers.set(side, started)
  }
  return servers
}

/** Rounds of all pairings, on servers that stay for all of them. */
export const measure = async (given: Case, options: MeasureOptions): Promise<Samples> => {
  const prefix = given.pinned ? pinnedPrefix() : []
  await using cleanup = new AsyncDisposableStack()
  const sides = new Set(options.pairings.map((name) => pairings[name].server))
  const servers = await startServers(sides, given, cleanup)

  // Fills the servers' caches where they have one, and the page cache: not counted.
  for (const name of options.pairings) {
    const { client, server } = pairings[name]
    const job = { ...given.job, prompt: given.job.prompt.slice(0, 1), generate: 1, repeat: 1 }
    await runClient({ side: client, prefix, watchMemory: false }, servers.get(server)!, job)
  }
  const start = (name: PairingName): Promise<RunningClient> => {
    const { client, server } = pairings[name]
    const setup = { side: client, prefix, watchMemory: false, inTurns: true }
    return startClient(setup, servers.get(server)!, given.job)
  }
  // A server of upstream's serves one client at a time.
  const together = given.job.inTurns && servers.size === options.pairings.length
  const groups = together ? [options.pairings] : options.pairings.map((name) => [name])
  const samples: Samples = {}
  for (let round = 0; round < options.rounds; round++) {
    for (const group of groups) {
      const names = round % 2 === 0 ? group : [...group].reverse()
      const { results, noiseCores } = await quietSample(options, () =>
        takeTurns(names, start, given.job.repeat),
      )
      for (const [index, name] of names.entries()) {
        const sample = { ...results[index]!, noiseCores }
        samples[name] = [...(samples[name] ?? []), sample]
        options.onSample(name, sample)
      }
    }
  }
  return samples
}

/**
 * Starts clients one after the other, each up to its loaded model. Then each does one repetition of its job in turn,
 * A B A B, while the others wait: what the machine does to one it does to all. What a server does behind a client that came or
 * left, as starting a process for the next one, is over before it is another's turn.
 */
const takeTurns = async (
  names: readonly PairingName[],
  start: (name: PairingName) => Promise<RunningClient>,
  repeat: number,
): Promise<Costs & { readonly results: readonly ClientResult[] }> => {
  await using cleanup = new AsyncDisposableStack()
  const clients: RunningClient[] = []
  for (const name of names) {
    // Behind a client that left, as long as a user may take for the next command: a server of ours has the next process warm then.
    await Bun.sleep(1000)
    await settle()
    const client = cleanup.use(await start(name))
    await client.isReady
    clients.push(client)
  }
  for (let turn = 0; turn < repeat; turn++) {
    for (const client of clients) {
      await settle()
      await client.takeTurn()
    }
  }
  const results: ClientResult[] = []
  for (const client of clients) results.push(await client.result())
  const total = (cost: keyof Costs): number =>
    results.reduce((sum, result) => sum + result[cost], 0)
  return {
    results,
    clientCpuSeconds: total("clientCpuSeconds"),
    serverCpuSeconds: total("serverCpuSeconds"),
  }
}

const settle = (): Promise<void> => waitForQuiet(0.3, 2000, 60)

/** What a run cost both its sides. */
interface Costs {
  readonly clientCpuSeconds: number
  readonly serverCpuSeconds: number
}

/** Runs, and runs again while others disturb it; see {@link NoiseOptions}. */
export const quietSample = async <Result extends Costs>(
  { noiseLimitCores, retries }: NoiseOptions,
  run: () => Promise<Result>,
): Promise<Result & Noise> => {
  let best: (Result & Noise) | undefined
  for (let attempt = 0; attempt <= retries; attempt++) {
    if (retries > 0) await waitForQuiet(noiseLimitCores, 20_000)
    const sample = await noisySample(run)
    if (best === undefined || sample.noiseCores < best.noiseCores) best = sample
    if (best.noiseCores <= noiseLimitCores) break
  }
  return best!
}

const noisySample = async <Result extends Costs>(
  run: () => Promise<Result>,
): Promise<Result & Noise> => {
  const busyBefore = busyCpuSeconds()
  const ownBefore = process.cpuUsage()
  const started = performance.now()
  const result = await run()
  const seconds = (performance.now() - started) / 1000
  const own = process.cpuUsage(ownBefore)
  const others =
    busyCpuSeconds() -
    busyBefore -
    (own.user + own.system) / 1e6 -
    result.clientCpuSeconds -
    result.serverCpuSeconds
  return { ...result, noiseCores: Math.max(0, others / seconds) }
}
