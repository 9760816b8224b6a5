/**
 * Upstream's llama-bench against upstream-client, on the same server: whether the client that stands for
 * upstream here is as fast as upstream's own tool.
 */
import { ensurePeers } from "../peers/peers.ts"
import { runProcess } from "../peers/process.ts"
import { pinnedPrefix } from "./measure.ts"
import type { LlamaBenchRow } from "./report.ts"
import { type ClientJob, runClient, startBenchServer } from "./sides.ts"
import { median, summarize } from "./statistics.ts"

interface LlamaBenchOutput {
  readonly n_prompt: number
  readonly n_gen: number
  readonly samples_ns: readonly number[]
}

export const compareWithLlamaBench = async (
  model: string,
  job: ClientJob,
  rounds: number,
): Promise<readonly LlamaBenchRow[]> => {
  const { "llama-bench": program } = await ensurePeers(["llama-bench"])
  const prefix = pinnedPrefix()
  await using server = await startBenchServer({ side: "upstream", prefix })
  const bench = { prompt: [] as number[], generate: [] as number[] }
  const client = { prompt: [] as number[], generate: [] as number[] }
  for (let round = 0; round < rounds; round++) {
    const result = await runProcess(
      [
        ...[...prefix, program, "--rpc", server.endpoint, "-m", job.modelPath],
        ...["-p", String(job.prompt.length), "-n", String(job.generate)],
        ...["-r", String(job.repeat), "-t", "1", "-ngl", "99", "-fa", "auto", "-o", "json"],
      ],
      { timeoutMs: 600_000 },
    )
    if (result.exitCode !== 0) throw new Error(`llama-bench failed:\n${result.stderr}`)
    for (const row of JSON.parse(result.stdout) as LlamaBenchOutput[]) {
      const ms = median(row.samples_ns) / 1e6
      if (row.n_gen > 0) bench.generate.push(ms / row.n_gen)
      else bench.prompt.push(ms)
    }
    const { runs } = await runClient(
      { side: "upstream", prefix, watchMemory: false },
      [server],
      job,
    )
    client.prompt.push(median(runs.map((run) => run.promptMs)))
    client.generate.push(median(runs.map((run) => run.tokenMs)))
  }
  const row = (what: string, ours: number[], theirs: number[]): LlamaBenchRow => ({
    model,
    what,
    llamaBench: summarize(theirs),
    upstreamClient: summarize(ours),
  })
  return [
    row(`prompt ${job.prompt.length}`, client.prompt, bench.prompt),
    row("generate, per token", client.generate, bench.generate),
  ]
}
