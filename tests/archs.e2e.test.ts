/**
 * Every architecture that libllama has: the 127 tiny models of upstream's test-llama-archs, split over
 * two of our servers, compute what they compute on one machine.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Stream } from "effect"
import { nmse } from "./nmse.ts"
import {
  type ArchitectureModel,
  ensureArchitectureModels,
  upstreamTolerance,
} from "./peers/models.ts"
import { ensurePeers } from "./peers/peers.ts"
import { runProcess, type ServerProcess } from "./peers/process.ts"
import { failureOf, ggmlRpc, openCluster, recite, run, startOurServer } from "./servers.ts"

setDefaultTimeout(240_000)

const scratch = mkdtempSync(join(tmpdir(), "archs-"))
const stack = new AsyncDisposableStack()
const servers: Array<ServerProcess> = []
let models: ReadonlyArray<ArchitectureModel>
let upstreamClient: string

beforeAll(async () => {
  upstreamClient = (await ensurePeers(["upstream-client"]))["upstream-client"]
  models = await ensureArchitectureModels()
  for (let index = 0; index < 2; index++) servers.push(stack.use(await startOurServer()))
}, 600_000)

afterAll(async () => {
  await stack.disposeAsync()
  rmSync(scratch, { recursive: true, force: true })
})

const endpoints = (): readonly string[] => servers.map(({ endpoint }) => endpoint)

test("ggml-rpc verify passes for all of them over two servers", async () => {
  expect(models).toHaveLength(127)
  const result = await runProcess(
    [
      ...[...ggmlRpc, "verify", "--json", "--threads", "1", "--rpc", endpoints().join(",")],
      ...models.map(({ path }) => path),
    ],
    { timeoutMs: 200_000 },
  )
  const rows = result.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))
  expect(rows.filter(({ isPassed }) => !isPassed)).toEqual([])
  expect(rows.map(({ path }) => path)).toEqual(models.map(({ path }) => path))
  for (const row of rows) {
    expect(row).toMatchObject({ kind: "logits", tokenCount: 32, isPassed: true })
    expect(row.nmse).toBeLessThanOrEqual(upstreamTolerance)
  }
  expect(result.exitCode).toBe(0)
})

/** One of each kind of memory, attention, feed-forward network and output. */
const cutNames: ReadonlySet<string> = new Set([
  ...["llama-dense", "llama-moe", "gemma3-dense", "gpt-oss-moe", "qwen35-dense", "qwen3next-moe"],
  ...["deepseek4-moe", "lfm2-dense", "falcon-dense", "gpt2-dense", "phi3-dense"],
])

test("ggml-rpc verify passes with tensors cut over two servers, and the sums are exact", async () => {
  const chosen = models.filter(({ name }) => cutNames.has(name))
  expect(chosen.length).toBeGreaterThanOrEqual(10)
  const flags = ["--json", "--threads", "1", "-sm", "tensor", "--rpc", endpoints().join(",")]
  const result = await runProcess(
    [...ggmlRpc, "verify", ...flags, ...chosen.map(({ path }) => path)],
    { timeoutMs: 100_000 },
  )
  for (const line of result.stdout.trim().split("\n")) {
    expect(JSON.parse(line)).toMatchObject({ isPassed: true, sumsNmse: 0 })
  }
  expect(result.exitCode).toBe(0)
})

test("a server's CPU supports every operation of all of them, as it says itself", async () => {
  const refused = await run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpoints().slice(0, 1))
      const plans = yield* Effect.forEach(models, ({ path }) =>
        cluster.plan(path, { threads: 1, contextSize: 256 }),
      )
      return plans.flatMap(({ unsupported }) => unsupported)
    }),
  )
  expect(refused).toEqual([])
})

const tokens = Array.from({ length: 24 }, (_, index) => (index * 37 + 5) % 128)

/** Logits of upstream's libraries in one process, all rows. */
const upstreamLogits = async ({ path, encode }: ArchitectureModel): Promise<Float32Array> => {
  const file = join(scratch, "logits")
  const result = await runProcess([
    ...[upstreamClient, "-m", path, "-t", "1", "--tokens", tokens.join(","), "--no-warmup"],
    ...["--no-repack", "--logits", file, ...(encode ? ["--encode"] : [])],
  ])
  expect(result).toMatchObject({ exitCode: 0, stderr: "" })
  return new Float32Array(await Bun.file(file).arrayBuffer())
}

test("the logits over two servers are those of upstream's libraries for all of them", async () => {
  const found = await run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpoints())
      return yield* Effect.forEach(models, ({ path }) =>
        Effect.scoped(
          Effect.gen(function* () {
            const plan = yield* cluster.plan(path, { threads: 1 })
            // Each server must have a part, or the split would not be tested.
            for (const { unitCount } of plan.devices) expect(unitCount).toBeGreaterThan(0)
            const model = yield* cluster.load(plan)
            return yield* model.evaluate(tokens)
          }),
        ),
      )
    }),
  )
  const differing: Array<string> = []
  for (const [index, model] of models.entries()) {
    const expected = await upstreamLogits(model)
    const { values, rowCount, columnCount } = found[index]!
    expect([rowCount, rowCount * columnCount]).toEqual([tokens.length, expected.length])
    // Written so that what is not a number differs.
    if (!(nmse(expected, values) <= upstreamTolerance)) differing.push(model.name)
  }
  expect(differing).toEqual([])
})

// Caches of every kind: full and sliding attention, latent, recurrent state alone, and hybrids.
test.each([
  "llama-dense",
  "gemma3-dense",
  "deepseek2-moe",
  "mamba2-dense",
  "jamba-dense",
  "qwen3next-moe",
  "lfm2-dense",
])("%s generates the tokens of upstream's libraries", async (name) => {
  const { path } = models.find((model) => model.name === name)!
  const result = await runProcess([
    ...[upstreamClient, "-m", path, "-t", "1", "--tokens", tokens.join(","), "-n", "40"],
    ...["--no-repack", "--no-warmup"],
  ])
  const found = await recite(endpoints(), path, { prompt: tokens, maxTokens: 40 })
  expect(found.tokens).toEqual(JSON.parse(result.stdout).runs[0].tokens)
  expect(found.tokens).toHaveLength(40)
})

test("a diffusion model says that it generates no text", async () => {
  const { path } = models.find(({ name }) => name === "dream-dense")!
  const error = await failureOf(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpoints())
      const model = yield* cluster.load(yield* cluster.plan(path, { threads: 1 }))
      return yield* Stream.runDrain(model.generate(tokens, { maxTokens: 2 }))
    }),
  )
  expect(error._tag).toBe("ModelError")
  expect(error.message).toContain("it is a diffusion model")
})
