/**
 * The commands as users type them, from start to end: upstream's llama-completion on upstream's server, or another
 * checkout's `ggml-rpc run` on its server, and ours on ours. Load, a short prompt, one token.
 */
import { ensureModel } from "../models/models.ts"
import { ensurePeers } from "../peers/peers.ts"
import { startProcess } from "../peers/process.ts"
import { type NoiseOptions, pinnedPrefix, quietSample } from "./measure.ts"
import { groupCpuSeconds } from "./processGroup.ts"
import type { CommandRow } from "./report.ts"
import { commandOf, startBenchServer } from "./sides.ts"
import type { BenchModel } from "./workloads.ts"

const shared = ["-p", "hello", "-n", "1", "-c", "1024", "-t", "1", "--temp", "0", "--ignore-eos"]

export const measureCommands = async (
  model: BenchModel,
  pinned: boolean,
  rounds: number,
  side: "upstream" | "before",
  noise: NoiseOptions,
): Promise<CommandRow> => {
  const prefix = pinned ? pinnedPrefix() : []
  const path = await ensureModel(model)
  await using theirs = await startBenchServer({ side, prefix })
  await using ours = await startBenchServer({ side: "ours", prefix })
  const run = async (server: typeof theirs, command: readonly string[]): Promise<number> => {
    const { wallMs } = await quietSample(noise, () =>
      timeCommand(server.pid, [
        ...[...prefix, ...command, ...shared],
        ...["-m", path, "--rpc", server.endpoint],
      ]),
    )
    return wallMs
  }
  const { name: referenceName, command } = await referenceOf(side)
  const reference: number[] = []
  const ggmlRpcRun: number[] = []
  for (let round = 0; round <= rounds; round++) {
    const theirMs = await run(theirs, command)
    const ourMs = await run(ours, [...commandOf("ours"), "run"])
    // The first fills the page cache.
    if (round === 0) continue
    reference.push(theirMs)
    ggmlRpcRun.push(ourMs)
  }
  return { model, pinned, reference, referenceName, ggmlRpcRun }
}

const referenceOf = async (side: "upstream" | "before") => {
  if (side === "before") {
    return { name: "ggml-rpc run, before", command: [...commandOf(side), "run"] }
  }
  const { "llama-completion": completion } = await ensurePeers(["llama-completion"])
  // `run` makes no warm-up run either.
  return { name: "llama-completion", command: [completion, "-no-cnv", "--no-warmup"] }
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
