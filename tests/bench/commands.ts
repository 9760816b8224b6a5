/**
 * The commands as users type them, from start to end: upstream's llama-completion on upstream's server, or another
 * checkout's `ggml-rpc run` on its server, and ours on ours. Load, a short prompt, one token.
 */
import { ensureModel } from "../models/models.ts"
import { ensurePeers } from "../peers/peers.ts"
import { startProcess } from "../peers/process.ts"
import { type Case, type NoiseOptions, pinnedPrefix, quietSample, startServers } from "./measure.ts"
import { groupCpuSeconds } from "./processGroup.ts"
import type { CommandRow } from "./report.ts"
import { commandOf } from "./sides.ts"

export interface CommandCase extends Pick<Case, "model" | "serverCount" | "pinned" | "cacheWarm"> {
  /**
   * Before each command, as for who reads an answer first. 0: each follows another one of its side at once, as in a script, so that what
   * a server does behind a client is in the figure of its own side.
   */
  readonly pauseMs: number
}

const shared = ["-p", "hello", "-n", "1", "-c", "1024", "-t", "1", "--temp", "0", "--ignore-eos"]

export const measureCommands = async (
  given: CommandCase,
  rounds: number,
  side: "upstream" | "before",
  noise: NoiseOptions,
): Promise<CommandRow> => {
  const prefix = given.pinned ? pinnedPrefix() : []
  const path = await ensureModel(given.model)
  await using cleanup = new AsyncDisposableStack()
  const servers = await startServers([side, "ours"], given, cleanup)
  const [theirs, ours] = [servers.get(side)!, servers.get("ours")!]
  const run = async (on: typeof ours, command: readonly string[]): Promise<number> => {
    const { wallMs } = await quietSample(noise, () =>
      timeCommand(
        on.map(({ pid }) => pid),
        [
          ...[...prefix, ...command, ...shared, "-ts", on.map(() => "1").join(",")],
          ...["-m", path, "--rpc", on.map(({ endpoint }) => endpoint).join(",")],
        ],
      ),
    )
    return wallMs
  }
  const { name: referenceName, command } = await referenceOf(side)
  const timed = async (on: typeof ours, words: readonly string[]): Promise<number> => {
    if (given.pauseMs > 0) await Bun.sleep(given.pauseMs)
    else await run(on, words)
    return await run(on, words)
  }
  const reference: number[] = []
  const ggmlRpcRun: number[] = []
  for (let round = 0; round <= rounds; round++) {
    const theirMs = await timed(theirs, command)
    const ourMs = await timed(ours, [...commandOf("ours"), "run"])
    // The first fills the page cache, and the servers' caches.
    if (round === 0) continue
    reference.push(theirMs)
    ggmlRpcRun.push(ourMs)
  }
  return { ...given, reference, referenceName, ggmlRpcRun }
}

const referenceOf = async (side: "upstream" | "before") => {
  if (side === "before") {
    return { name: "ggml-rpc run, before", command: [...commandOf(side), "run"] }
  }
  const { "llama-completion": completion } = await ensurePeers(["llama-completion"])
  // `run` makes no warm-up run either.
  return { name: "llama-completion", command: [completion, "-no-cnv", "--no-warmup"] }
}

const timeCommand = async (serverGroups: readonly number[], command: readonly string[]) => {
  const serverCpuBefore = groupCpuSeconds(serverGroups)
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
    serverCpuSeconds: groupCpuSeconds(serverGroups) - serverCpuBefore,
  }
}
