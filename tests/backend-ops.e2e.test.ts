/**
 * Upstream's test-backend-ops over our server: what passes on upstream's server passes on ours.
 *
 * The normal run takes a subset with every operation (peers/backend-ops-subset.ts), and asks upstream's
 * server only about cases that fail on ours: some may fail on a processor whatever server runs them.
 * GGML_RPC_ALL_OPS=1 runs all 20,000 cases: half an hour.
 */
import { beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { backendOpsSubset } from "./peers/backend-ops-subset.ts"
import { ensurePeers } from "./peers/peers.ts"
import { runProcess, type ServerProcess, startUpstreamServer } from "./peers/process.ts"
import { startOurServer } from "./servers.ts"

const runsAll = process.env.GGML_RPC_ALL_OPS === "1"
const timeoutMs = runsAll ? 3_600_000 : 240_000
setDefaultTimeout(timeoutMs)

let paths: { readonly "test-backend-ops": string; readonly "librpc-device.so": string }

beforeAll(async () => {
  paths = await ensurePeers(["test-backend-ops", "librpc-device.so"])
  await ensurePeers(["rpc-server"])
}, 300_000)

interface Results {
  readonly passed: ReadonlySet<string>
  readonly failed: ReadonlySet<string>
}

/** Case strings by outcome; what the CPU cannot compute has no reference and is in neither. */
const resultsOf = (output: string): Results => {
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

const testOn = async (server: ServerProcess, parameters: string | undefined): Promise<Results> => {
  const result = await runProcess(
    [
      ...[paths["test-backend-ops"], "test", "-b", "RPC0"],
      ...(parameters === undefined ? [] : ["-p", parameters]),
    ],
    {
      timeoutMs,
      env: {
        GGML_BACKEND_PATH: paths["librpc-device.so"],
        GGML_RPC_DEVICE_ENDPOINTS: server.endpoint,
      },
    },
  )
  const results = resultsOf(result.stdout)
  // A client that lost its server ends by an abort, without this line.
  if (!result.stdout.includes(`Backend RPC0[${server.endpoint}]: `)) {
    throw new Error(
      `test-backend-ops ended with exit code ${result.exitCode} after:\n${result.stdout.slice(-500)}\n${result.stderr.slice(-1000)}\nthe server says:\n${server.stderr()}`,
    )
  }
  const count = results.passed.size + results.failed.size
  expect(count).toBeGreaterThan(1000)
  return results
}

const seenOperations = new Set<string>()
const parts = runsAll ? [undefined] : backendOpsSubset

test.each(parts.map((parameters, index) => [index + 1, parameters] as const))(
  "part %d passes on our server",
  async (_, parameters) => {
    await using server = await startOurServer()
    const ours = await testOn(server, parameters)
    for (const name of ours.passed) seenOperations.add(name.slice(0, name.indexOf("(")))
    expect(server.stderr()).toBe("")
    if (ours.failed.size === 0) return
    await using upstream = await startUpstreamServer({ threads: 1 })
    const theirs = await testOn(upstream, parameters)
    expect([...ours.failed].filter((name) => theirs.passed.has(name))).toEqual([])
  },
)

test("every operation that upstream tests was among them", async () => {
  const { stdout } = await runProcess([paths["test-backend-ops"], "--show-coverage"])
  const tested = [...stdout.matchAll(/^ {2}✓ (\w+)$/gm)].map(([, name]) => name!)
  expect(tested.length).toBeGreaterThan(100)
  expect(tested.filter((name) => !seenOperations.has(name))).toEqual([])
})
