/**
 * Upstream's test-backend-ops over one RPC server: every case runs on the server's device and on the
 * local CPU as reference, and the results are compared.
 */
import { ensurePeers } from "./peers.ts"
import { runProcess } from "./process.ts"

/** Case strings by outcome; what the CPU cannot compute has no reference and is in neither. */
export interface BackendOpsResult {
  readonly passed: ReadonlySet<string>
  readonly failed: ReadonlySet<string>
  /** Whether it came to its end: a client that loses its server ends by an abort in the middle. */
  readonly isComplete: boolean
  /** How it ended, and its last output; for an error. */
  readonly end: string
}

export interface BackendOpsOptions {
  /** `-p`: a regex over the parameters; default: all cases. */
  readonly params?: string | undefined
  /** Default 10 minutes. */
  readonly timeoutMs?: number
}

/** Runs cases on the first device of one server. */
export const runBackendOps = async (
  endpoint: string,
  options: BackendOpsOptions = {},
): Promise<BackendOpsResult> => {
  const paths = await ensurePeers(["test-backend-ops", "librpc-device.so"])
  const command = [
    ...[paths["test-backend-ops"], "test", "-b", "RPC0"],
    ...(options.params === undefined ? [] : ["-p", options.params]),
  ]
  const { exitCode, stdout, stderr } = await runProcess(command, {
    timeoutMs: options.timeoutMs ?? 600_000,
    env: { GGML_BACKEND_PATH: paths["librpc-device.so"], GGML_RPC_DEVICE_ENDPOINTS: endpoint },
  })
  return {
    ...outcomesIn(stdout),
    isComplete: stdout.includes(`Backend RPC0[${endpoint}]: `),
    end: `exit code ${exitCode} after:\n${stdout.slice(-500)}\n${stderr.slice(-1000)}`,
  }
}

const outcomesIn = (output: string): Pick<BackendOpsResult, "passed" | "failed"> => {
  const passed = new Set<string>()
  const failed = new Set<string>()
  // Colours stand around the outcome; a failure's numbers, before it.
  const line = /^ {2}([A-Z0-9_]+\(.*\)): (.*)$/
  for (const text of output.split("\n")) {
    const [, name, outcome] = line.exec(text) ?? []
    if (name === undefined || outcome === undefined) continue
    if (outcome.endsWith("OK\x1b[0m")) passed.add(name)
    else if (outcome.endsWith("FAIL\x1b[0m")) failed.add(name)
  }
  return { passed, failed }
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
