/**
 * The commands as users type them, from start to end: upstream's llama-completion on upstream's server,
 * `ggml-rpc run` on ours. Load, a short prompt, one token.
 */
import { ensureModel } from "../models/models.ts"
import { ensurePeers } from "../peers/peers.ts"
import { startProcess } from "../peers/process.ts"
import { ggmlRpc } from "../servers.ts"
import { type NoiseOptions, pinnedPrefix, quietSample } from "./measure.ts"
import { groupCpuSeconds } from "./processGroup.ts"
import type { CommandRow } from "./report.ts"
import { startBenchServer } from "./sides.ts"
import type { BenchModel } from "./workloads.ts"

const shared = ["-p", "hello", "-n", "1", "-c", "1024", "-t", "1", "--temp", "0", "--ignore-eos"]

export const measureCommands = async (
  model: BenchModel,
  pinned: boolean,
  rounds: number,
  noise: NoiseOptions,
): Promise<CommandRow> => {
  const prefix = pinned ? pinnedPrefix() : []
  const path = await ensureModel(model)
  const { "llama-completion": completion } = await ensurePeers(["llama-completion"])
  await using upstream = await startBenchServer({ side: "upstream", prefix })
  await using ours = await startBenchServer({ side: "ours", prefix })
  const run = async (server: typeof upstream, command: readonly string[]): Promise<number> => {
    const { wallMs } = await quietSample(noise, () =>
      timeCommand(server.pid, [
        ...[...prefix, ...command, ...shared],
        ...["-m", path, "--rpc", server.endpoint],
      ]),
    )
    return wallMs
  }
  const llamaCompletion: number[] = []
  const ggmlRpcRun: number[] = []
  for (let round = 0; round <= rounds; round++) {
    // `run` makes no warm-up run either.
    const theirMs = await run(upstream, [completion, "-no-cnv", "--no-warmup"])
    const ourMs = await run(ours, [...ggmlRpc, "run"])
    // The first fills the page cache.
    if (round === 0) continue
    llamaCompletion.push(theirMs)
    ggmlRpcRun.push(ourMs)
  }
  return { model, pinned, llamaCompletion, ggmlRpcRun }
}

const timeCommand = async (serverGroup: number, command: readonly string[]) => {
  const serverCpuBefore = groupCpuSeconds([serverGroup])
  const started = performance.now()
  await using child = startProcess(command)
  const exitCode = await child.exited
  const wallMs = performance.now() - started
  if (exitCode !== 0) {
    throw new Error(`${command.join(" ")} ended with exit code ${exitCode}:\n${child.stderr()}`)
  }
  return {
    wallMs,
    clientCpuSeconds: child.cpuSeconds() ?? 0,
    serverCpuSeconds: groupCpuSeconds([serverGroup]) - serverCpuBefore,
  }
}
