/** Times: the same job by every pairing in turn, round after round. */
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
  runClient,
  type Side,
  startBenchServer,
} from "./sides.ts"

/** One situation that is measured. */
export interface Case {
  readonly model: string
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

/** Rounds of the pairings in turn, A B A B, on servers that stay for all of them. */
export const measure = async (given: Case, options: MeasureOptions): Promise<Samples> => {
  const prefix = given.pinned ? pinnedPrefix() : []
  await using cleanup = new AsyncDisposableStack()
  const folder = mkdtempSync(join(tmpdir(), "ggml-rpc-bench-"))
  cleanup.defer(() => rmSync(folder, { recursive: true, force: true }))
  const servers = new Map<Side, ServerProcess[]>()
  for (const side of new Set(options.pairings.map((name) => pairings[name].server))) {
    const started: ServerProcess[] = []
    for (let index = 0; index < given.serverCount; index++) {
      const cacheDir = given.cacheWarm ? join(folder, `${side}-${index}`) : undefined
      started.push(cleanup.use(await startBenchServer({ side, prefix, cacheDir })))
    }
    servers.set(side, started)
  }

  const run = (name: PairingName): Promise<Sample> => {
    const { client, server } = pairings[name]
    return quietSample(options, () =>
      runClient({ side: client, prefix, watchMemory: false }, servers.get(server)!, given.job),
    )
  }
  // Fills the servers' caches where they have one, and the page cache: not counted.
  for (const name of options.pairings) {
    const { client, server } = pairings[name]
    const job = { ...given.job, prompt: given.job.prompt.slice(0, 1), generate: 1, repeat: 1 }
    await runClient({ side: client, prefix, watchMemory: false }, servers.get(server)!, job)
  }
  const samples: Samples = {}
  for (let round = 0; round < options.rounds; round++) {
    for (const name of options.pairings) {
      const sample = await run(name)
      samples[name] = [...(samples[name] ?? []), sample]
      options.onSample(name, sample)
    }
  }
  return samples
}

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
