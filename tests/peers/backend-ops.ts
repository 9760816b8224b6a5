/**
 * Upstream's test-backend-ops over one RPC server: every case runs on the server's device and on the
 * local CPU as reference, and the results are compared.
 *
 * As a script: `bun tests/peers/backend-ops.ts HOST:PORT [--all]` runs the subset, or all cases (half
 * an hour), and prints what failed and the time each op took. Without an endpoint it starts upstream's
 * server.
 */
import { backendOpsSubset } from "./backend-ops-subset.ts"
import { ensurePeers } from "./peers.ts"
import {
  runProcess,
  type ServerProcess,
  startProcess,
  startUpstreamServer,
  within,
} from "./process.ts"

export interface BackendOpsResult {
  /** Cases that ran and agreed with the reference. */
  readonly passedCount: number
  /** Cases that ran and did not, and what the tool reported besides, with its last output. */
  readonly failures: ReadonlyArray<string>
  /** Milliseconds that each op's cases took, client, server and reference together. */
  readonly opMs: ReadonlyMap<string, number>
  readonly exitCode: number
}

export interface BackendOpsOptions {
  /** `-p`: a regex over the parameters. */
  readonly params?: string
  /** Default 10 minutes. */
  readonly timeoutMs?: number
  /** Put before the command, such as `["taskset", "-c", "0"]`. */
  readonly prefix?: readonly string[]
}

/** Runs the cases that match `params` (default: all) on the first device of one server. */
export const runBackendOps = async (
  endpoint: string,
  options: BackendOpsOptions = {},
): Promise<BackendOpsResult> => {
  const paths = await ensurePeers(["test-backend-ops", "librpc-device.so"])
  // Line by line, not by the block: the time between lines is the time of a case.
  const command = [
    ...(options.prefix ?? []),
    ...["stdbuf", "-oL", paths["test-backend-ops"], "-b", "RPC0"],
    ...(options.params === undefined ? [] : ["-p", options.params]),
  ]
  const reader = new CaseReader()
  await using child = startProcess(command, {
    env: { GGML_BACKEND_PATH: paths["librpc-device.so"], GGML_RPC_DEVICE_ENDPOINTS: endpoint },
    onStdout: (text) => reader.read(text),
  })
  const timeoutMs = options.timeoutMs ?? 600_000
  const exitCode = await within(child.exited, timeoutMs)
  const failures = [...reader.failures]
  if (exitCode === undefined) failures.push(`did not end within ${timeoutMs} ms`)
  else if (exitCode !== 0 || reader.passedCount === 0) {
    failures.push(
      `exit code ${exitCode} after ${reader.passedCount} cases; it printed:\n${(child.stdout() + child.stderr()).slice(-2000)}`,
    )
  }
  const { passedCount, opMs } = reader
  return { passedCount, failures, opMs, exitCode: exitCode ?? -1 }
}

/**
 * Runs the subset, its two parts at once; a server that serves one client at a time needs an endpoint
 * for each.
 */
export const runBackendOpsSubset = async (
  endpoints: readonly [string, string],
): Promise<BackendOpsResult> => {
  const [first, second] = await Promise.all([
    runBackendOps(endpoints[0], { params: backendOpsSubset[0] }),
    runBackendOps(endpoints[1], { params: backendOpsSubset[1] }),
  ])
  const opMs = new Map(first.opMs)
  for (const [op, ms] of second.opMs) opMs.set(op, (opMs.get(op) ?? 0) + ms)
  return {
    passedCount: first.passedCount + second.passedCount,
    failures: [...first.failures, ...second.failures],
    opMs,
    exitCode: first.exitCode || second.exitCode,
  }
}

export interface BackendOpsCase {
  readonly op: string
  readonly params: string
}

/** Every case of a single op, those that the CPU cannot check too; the tool lists no fused ops. */
export const listBackendOpsCases = async (): Promise<ReadonlyArray<BackendOpsCase>> => {
  const paths = await ensurePeers(["test-backend-ops"])
  const command = [paths["test-backend-ops"], "support", "-b", "CPU", "--output", "csv"]
  const { stdout } = await runProcess(command)
  const rows = stdout.matchAll(/^"CPU","([A-Z0-9_]+)","([^"]*)","support",/gm)
  return [...rows].map(([, op = "", params = ""]) => ({ op, params }))
}

class CaseReader {
  passedCount = 0
  readonly failures: string[] = []
  readonly opMs = new Map<string, number>()
  #rest = ""
  #last = performance.now()

  read(text: string): void {
    const lines = (this.#rest + text).split("\n")
    this.#rest = lines.pop() ?? ""
    for (const line of lines) this.#line(line)
  }

  #line(line: string): void {
    const now = performance.now()
    const elapsedMs = now - this.#last
    this.#last = now
    // biome-ignore lint/suspicious/noControlCharactersInRegex: the tool colours its verdicts
    const match = /^ {2}([A-Z0-9_]+)\((.*)\): (.*?)\x1b\[1;3\dm(OK|FAIL)/.exec(line)
    if (match === null) return
    const [, op = "", params, detail, verdict] = match
    this.opMs.set(op, (this.opMs.get(op) ?? 0) + elapsedMs)
    if (verdict === "OK") this.passedCount += 1
    else this.failures.push(`${op}(${params}): ${detail}`)
  }
}

const main = async (args: readonly string[]): Promise<number> => {
  const all = args.includes("--all")
  const [endpoint] = args.filter((arg) => !arg.startsWith("--"))
  const servers: ServerProcess[] = []
  try {
    if (endpoint === undefined) {
      servers.push(
        await startUpstreamServer({ threads: 1 }),
        await startUpstreamServer({ threads: 1 }),
      )
    }
    const endpoints = [
      endpoint ?? servers[0]?.endpoint ?? "",
      endpoint ?? servers[1]?.endpoint ?? "",
    ] as const
    const started = performance.now()
    const result = all
      ? await runBackendOps(endpoints[0], { timeoutMs: 7_200_000 })
      : await runBackendOpsSubset(endpoints)
    const seconds = ((performance.now() - started) / 1000).toFixed(1)
    for (const [op, ms] of [...result.opMs].sort((a, b) => b[1] - a[1])) {
      console.log(`${(ms / 1000).toFixed(2).padStart(8)} s  ${op}`)
    }
    for (const failure of result.failures) console.log(`failed: ${failure}`)
    console.log(
      `${result.opMs.size} ops, ${result.passedCount} cases passed, ${result.failures.length} failed, ${seconds} s`,
    )
    return result.failures.length === 0 ? 0 : 1
  } finally {
    for (const server of servers) await server.stop()
  }
}

if (import.meta.main) process.exit(await main(process.argv.slice(2)))
