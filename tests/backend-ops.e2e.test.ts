/**
 * Upstream's test-backend-ops over our server: what passes on upstream's server passes on ours.
 *
 * The normal run takes a subset with every operation (peers/backend-ops-subset.ts), and asks upstream's
 * server only about cases that fail on ours: some may fail on a processor whatever server runs them.
 * GGML_RPC_ALL_OPS=1 runs all 20,000 cases: half an hour.
 */
import { beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { type BackendOpsResult, runBackendOps } from "./peers/backend-ops.ts"
import { backendOpsSubset } from "./peers/backend-ops-subset.ts"
import { ensurePeers } from "./peers/peers.ts"
import { runProcess, type ServerProcess, startUpstreamServer } from "./peers/process.ts"
import { startOurServer } from "./servers.ts"

const runsAll = process.env.GGML_RPC_ALL_OPS === "1"
const timeoutMs = runsAll ? 3_600_000 : 240_000
setDefaultTimeout(timeoutMs)

beforeAll(async () => {
  await ensurePeers(["test-backend-ops", "librpc-device.so", "rpc-server"])
}, 300_000)

const testOn = async (
  server: ServerProcess,
  params: string | undefined,
): Promise<BackendOpsResult> => {
  const result = await runBackendOps(server.endpoint, { params, timeoutMs })
  if (!result.isComplete) {
    throw new Error(
      `test-backend-ops ended with ${result.end}\nthe server says:\n${server.stderr()}`,
    )
  }
  expect(result.passed.size + result.failed.size).toBeGreaterThan(1000)
  return result
}

const seenOperations = new Set<string>()
const parts = runsAll ? [undefined] : backendOpsSubset

test.each(parts.map((parameters, index) => [index + 1, parameters] as const))(
  "part %d passes on our server",
  async (_, parameters) => {
    await using server = await startOurServer({
      protocol: "peers",
      flags: ["--allow-training", "--log-level", "warning"],
    })
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
  const paths = await ensurePeers(["test-backend-ops"])
  const { stdout } = await runProcess([paths["test-backend-ops"], "--show-coverage"])
  const tested = [...stdout.matchAll(/^ {2}✓ (\w+)$/gm)].map(([, name]) => name!)
  expect(tested.length).toBeGreaterThan(100)
  expect(tested.filter((name) => !seenOperations.has(name))).toEqual([])
})
