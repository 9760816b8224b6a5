/** Runs all ways of a comparison in turn, round after round, on servers that stay. */
import { cpus } from "node:os"
import { ensureModel } from "../../models/models.ts"
import { ensurePeers } from "../../peers/peers.ts"
import {
  type ChildProcess,
  freePort,
  type ServerProcess,
  startProcess,
  waitUntil,
} from "../../peers/process.ts"
import { pinnedPrefix } from "../measure.ts"
import { startBenchServer } from "../sides.ts"
import type { Comparison } from "./comparisons.ts"
import { type Place, runWay, type SpeedSample, type Traffic, trafficOf, type Way } from "./ways.ts"

/** By the names of the ways, one a round; null: it was not run in this one, as it had failed. */
export type SpeedSamples = Readonly<Record<string, readonly (SpeedSample | null)[]>>

export interface SpeedMeasured {
  readonly comparison: Comparison
  readonly samples: SpeedSamples
}

export interface TrafficRow {
  readonly model: string
  readonly way: string
  readonly traffic: Traffic
}

type Note = (text: string) => void

export const measureSpeed = async (
  comparison: Comparison,
  rounds: number,
  note: Note,
): Promise<SpeedMeasured> => {
  await using bench = await startServers(comparison)
  const samples: Record<string, SpeedSample[]> = {}
  const failed = new Set<string>()
  for (let round = 0; round < rounds; round++) {
    // A B C, then C B A: what the machine does in between hits none of them alone.
    const ways = round % 2 === 0 ? comparison.ways : [...comparison.ways].reverse()
    for (const way of ways.filter(({ name }) => !failed.has(name))) {
      try {
        const sample = await runWay(way, bench.placeOf(way), comparison.tests)
        samples[way.name] = [...(samples[way.name] ?? []), sample]
        note(`  ${way.name}: ${ratesText(sample)}`)
      } catch (error) {
        // One that cannot run the model is a row less, not the end of the others.
        failed.add(way.name)
        note(`  ${way.name} FAILED: ${error instanceof Error ? error.message : String(error)}`)
      }
    }
  }
  return { comparison, samples }
}

const ratesText = ({ rates, cpuSeconds }: SpeedSample): string =>
  [
    ...Object.entries(rates).map(([name, values]) => `${name} ${values.at(-1)!.toFixed(1)}`),
    `CPU ${cpuSeconds.toFixed(1)} s`,
  ].join(", ")

/** Bytes, writes and waits a token. */
export const measureTraffic = async (
  model: Comparison["model"],
  ways: readonly Way[],
  note: Note,
): Promise<readonly TrafficRow[]> => {
  await using bench = await startServers({ model, ways, isOneCore: false, delayMs: 0 })
  const rows: TrafficRow[] = []
  for (const way of ways) {
    try {
      const traffic = await trafficOf(way, bench.placeOf(way))
      rows.push({ model, way: way.name, traffic })
      note(`  ${way.name}: ${JSON.stringify(traffic)}`)
    } catch (error) {
      note(`  ${way.name} FAILED: ${error instanceof Error ? error.message : String(error)}`)
    }
  }
  return rows
}

interface Bench extends AsyncDisposable {
  readonly placeOf: (way: Way) => Place
}

const startServers = async ({
  model,
  ways,
  isOneCore,
  delayMs,
}: Pick<Comparison, "model" | "ways" | "isOneCore" | "delayMs">): Promise<Bench> => {
  const modelPath = await ensureModel(model)
  const cleanup = new AsyncDisposableStack()
  try {
    const servers = { ours: [] as ServerProcess[], upstream: [] as ServerProcess[] }
    const endpoints = {
      ours: [] as string[],
      upstream: [] as string[],
      "ours, 7.0": [] as string[],
    }
    for (const side of ["ours", "upstream"] as const) {
      const counts = ways.filter(({ server }) => server === side).map((way) => way.serverCount)
      for (let index = 0; index < Math.max(0, ...counts); index++) {
        const prefix = isOneCore ? pinnedPrefix() : ownCore(index)
        // A client of upstream's hangs up at a version that it does not know.
        const port = side === "ours" ? freePort() : 0
        const flags = side === "ours" ? ["--listen", `${port}=7.0`] : []
        const server = cleanup.use(await startBenchServer({ side, prefix, flags }))
        if (side === "ours") endpoints["ours, 7.0"].push(`127.0.0.1:${port}`)
        servers[side].push(server)
        endpoints[side].push(
          delayMs === 0 ? server.endpoint : await delayed(server.port, delayMs, cleanup),
        )
      }
    }
    return {
      placeOf: ({ client, server, serverCount }) => ({
        modelPath,
        endpoints:
          server === "none"
            ? []
            : endpoints[client === "upstream" && server === "ours" ? "ours, 7.0" : server].slice(
                0,
                serverCount,
              ),
        serverGroups:
          server === "none" ? [] : servers[server].slice(0, serverCount).map(({ pid }) => pid),
        prefix: isOneCore ? pinnedPrefix() : server === "none" ? ownCore(0) : [],
      }),
      [Symbol.asyncDispose]: () => cleanup.disposeAsync(),
    }
  } catch (error) {
    await cleanup.disposeAsync()
    throw error
  }
}

const ownCore = (index: number): readonly string[] => [
  ...["taskset", "-c", String(index % cpus().length)],
]

/** A longer wire in front of a server. */
const delayed = async (
  port: number,
  delayMs: number,
  cleanup: AsyncDisposableStack,
): Promise<string> => {
  const { "delay-relay": program } = await ensurePeers(["delay-relay"])
  const relay: ChildProcess = cleanup.use(startProcess([program, String(port), String(delayMs)]))
  await waitUntil(() => relay.stdout().includes("\n") || !relay.isRunning(), 5000)
  const listening = Number(relay.stdout().trim())
  if (!(listening > 0)) throw new Error(`delay-relay did not come up: ${relay.stderr()}`)
  return `127.0.0.1:${listening}`
}
