/**
 * Our client over the server of each enabled release, and over servers of several at once: the tokens are those of the run in
 * this process.
 */
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { Effect } from "effect"
import { runCli } from "./cli/program.ts"
import { cellOf } from "./matrix.ts"
import { ensureModel } from "./models/models.ts"
import { type ArchitectureModel, ensureArchitectureModels } from "./peers/models.ts"
import { ensurePeers } from "./peers/peers.ts"
import { startUpstreamServer } from "./peers/process.ts"
import { enabledReleases } from "./peers/releases.ts"
import { openCluster, recite, run, startOurServer } from "./servers.ts"

setDefaultTimeout(60_000)

const enabled = enabledReleases()

// A quarter of a minute a release, to fetch and to compile, on two cores that do nothing else.
beforeAll(async () => {
  for (const release of enabled) await ensurePeers(["rpc-server"], { release })
}, 600_000)

const models = {
  demo: { prompt: "What is this?", maxTokens: 32 },
  mixed: { prompt: [1, 17, 290, 3, 4444, 8191, 5, 77], maxTokens: 16 },
} as const

describe.each(enabled.map((release) => [release.protocol, release] as const))(
  "a server of protocol %s",
  (protocol, release) => {
    const cell = cellOf("ours-upstream", protocol, 2)
    beforeAll(cell.begin)
    test.each(["demo", "mixed"] as const)(
      "computes the tokens of this process: %s",
      async (name) => {
        await using server = await startUpstreamServer({ release, threads: 1 })
        const path = await ensureModel(name)
        const local = await recite([], path, models[name])
        const remote = await recite([server.endpoint], path, models[name])
        expect(local.tokens).toHaveLength(models[name].maxTokens)
        expect(remote.tokens).toEqual(local.tokens)
        expect(remote.unitCounts[0]).toBeGreaterThan(0)
        cell.passed()
      },
    )
  },
)

describe("servers of several versions in one cluster", () => {
  const startAll = async () => {
    const stack = new AsyncDisposableStack()
    const servers = []
    for (const release of enabled) {
      servers.push(stack.use(await startUpstreamServer({ release, threads: 1 })))
    }
    return { stack, endpoints: servers.map(({ endpoint }) => endpoint) }
  }

  test.each(["demo", "mixed"] as const)("compute the tokens of this process: %s", async (name) => {
    const { stack, endpoints } = await startAll()
    await using _ = stack
    await using ours = await startOurServer()
    const path = await ensureModel(name)
    const local = await recite([], path, models[name])
    const tensorSplit = [...endpoints, ours].map(() => 1)
    const remote = await recite([...endpoints, ours.endpoint], path, {
      ...models[name],
      tensorSplit,
    })
    expect(remote.tokens).toEqual(local.tokens)
    const used = remote.unitCounts.slice(0, -1).filter((count) => count > 0)
    expect(used.length).toBeGreaterThan(1)
  })

  test("say their versions, each without a warning", async () => {
    const { stack, endpoints } = await startAll()
    await using _ = stack
    const servers = await run(Effect.map(openCluster(endpoints), (cluster) => cluster.servers))
    expect(servers).toEqual(
      enabled.map(({ protocol }, index) => ({
        endpoint: endpoints[index]!,
        kind: "llama.cpp" as const,
        version: protocol,
      })),
    )
  })

  test("pass verify", async () => {
    const { stack, endpoints } = await startAll()
    await using _ = stack
    const result = await runCli([
      ...["verify", "--json", "--threads", "1", "--rpc", endpoints.join(",")],
      ...["--tensor-split", endpoints.map(() => 1).join(",")],
      ...[await ensureModel("demo"), await ensureModel("mixed")],
    ])
    const rows = result.stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line))
    expect(rows.map(({ isPassed }) => isPassed)).toEqual([true, true])
    expect(result.exitCode).toBe(0)
  })
})

describe("operations that are newer than a server", () => {
  const oldest = enabled[0]!
  let models: ReadonlyArray<ArchitectureModel>
  beforeAll(async () => {
    models = await ensureArchitectureModels()
  }, 600_000)

  /** The row that verify has for a model over one server of the oldest release. */
  const verified = async (name: string) => {
    await using server = await startUpstreamServer({ release: oldest, threads: 1 })
    const { path } = models.find((model) => model.path.endsWith(`/${name}.gguf`))!
    const args = ["verify", "--json", "--threads", "1", "--rpc", server.endpoint, path]
    return JSON.parse((await runCli(args)).stdout)
  }

  // Of the newest release's own, which has them all, there is nothing to see.
  const testOld = test.skipIf(enabled.length === 1)

  testOld("are computed by this machine: LIGHTNING_INDEXER, TOP_K, FILL", async () => {
    expect(await verified("deepseek32-moe")).toMatchObject({ isPassed: true })
  })

  testOld("are named by the plan, before anything is sent", async () => {
    await using server = await startUpstreamServer({ release: oldest, threads: 1 })
    const { path } = models.find((model) => model.path.endsWith("/deepseek32-moe.gguf"))!
    const { unsupported } = await run(
      Effect.flatMap(openCluster([server.endpoint]), (cluster) =>
        cluster.plan(path, { threads: 1, contextSize: 256 }),
      ),
    )
    expect(unsupported).toMatchObject([{ device: "RPC0", place: server.endpoint }])
    const names = unsupported[0]!.operations.map(({ name }) => name)
    expect(names).toContain("LIGHTNING_INDEXER")
    expect(names).toContain("TOP_K")
  })

  testOld("are named, where the server holds what they change", async () => {
    const row = await verified("deepseek4-moe")
    expect(row).toMatchObject({ error: "UnsupportedOpError", isPassed: false })
    expect(row.message).toContain(
      `of protocol ${oldest.protocol} cannot run the operation SET_ROWS`,
    )
  })
})

test("devices tells whose servers there are, and their protocols", async () => {
  await using upstream = await startUpstreamServer({ release: enabled[0]!, threads: 1 })
  await using ours = await startOurServer()
  const rpc = [upstream, ours].map(({ endpoint }) => endpoint).join(",")
  const json = await runCli(["devices", "--json", "--rpc", rpc])
  const listed = JSON.parse(json.stdout).devices
  expect(listed[0]).toMatchObject({
    place: upstream.endpoint,
    server: { kind: "llama.cpp", protocol: enabled[0]!.protocol, device: 0 },
  })
  expect(listed[1]).toMatchObject({
    place: ours.endpoint,
    server: { kind: "ggml-rpc", device: 0 },
  })
  const table = await runCli(["devices", "--rpc", rpc])
  expect(table.stdout).toContain(`llama.cpp ${enabled[0]!.protocol}, device 0`)
})
