/** Activations that cross between hosts as bf16 (`wire: "bf16"`): half the bytes, and nothing else is rounded. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Cluster } from "@ggml-rpc/client"
import { Effect } from "effect"
import { jsonLines, runCli } from "./cli/program.ts"
import { ensureModel } from "./models/models.ts"
import { nmse } from "./nmse.ts"
import { type ServerProcess, startUpstreamServer } from "./peers/process.ts"
import { newestRelease } from "./peers/releases.ts"
import { type OurServer, openCluster, recite, run, startOurServer } from "./servers.ts"

setDefaultTimeout(120_000)

const scratch = mkdtempSync(join(tmpdir(), "wire-"))
const stack = new AsyncDisposableStack()
const servers: Array<OurServer> = []
let upstream: ServerProcess
let demo: string
/** What is spared of each hidden state of the demo model; of one that is sent, the cache flag of SET_TENSOR as well. */
const HALF = (192 * 4) / 2
const HALF_SENT = HALF + 1

beforeAll(async () => {
  for (let index = 0; index < 2; index++) servers.push(stack.use(await startOurServer()))
  upstream = stack.use(await startUpstreamServer({ release: newestRelease, threads: 1 }))
  demo = await ensureModel("demo")
}, 600_000)

afterAll(async () => {
  await stack.disposeAsync()
  rmSync(scratch, { recursive: true, force: true })
})

const ours = (): readonly string[] => servers.map(({ endpoint }) => endpoint)

interface Found {
  readonly values: Float32Array
  /** Of a text's every token but the first ones, by server. */
  readonly links: ReadonlyArray<{ readonly sent: number; readonly received: number }>
  readonly exactServers: Cluster.ModelPlan["exactServers"]
  readonly splitMode: string
}

const TOKENS = 32

/** The logits of a prompt, and what a token takes. */
const computed = (
  endpoints: readonly string[],
  path: string,
  options: Cluster.PlanOptions,
): Promise<Found> =>
  run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpoints)
      const plan = yield* cluster.plan(path, { threads: 1, contextSize: 512, ...options })
      const model = yield* cluster.load(plan)
      const { values } = yield* model.evaluate(Array.from({ length: 40 }, (_, at) => at * 3))
      const generate = (maxTokens: number) =>
        model.generateEach([1, 2, 3], () => {}, { maxTokens, temp: 0, ignoreEos: true })
      yield* generate(4)
      const before = yield* cluster.traffic
      yield* generate(4)
      const between = yield* cluster.traffic
      yield* generate(4 + TOKENS)
      const after = yield* cluster.traffic
      const links = after.map((link, at) => ({
        sent: link.sentBytes - 2 * between[at]!.sentBytes + before[at]!.sentBytes,
        received: link.receivedBytes - 2 * between[at]!.receivedBytes + before[at]!.receivedBytes,
      }))
      const { exactServers, splitMode } = plan
      return { values, links, exactServers, splitMode }
    }),
  )

const oneLine = (text: string): string => text.replace(/\s+/g, " ")

describe("layers over two of our servers", () => {
  test("what crosses for a token is half: the embedding, and what one server gives the other", async () => {
    const exact = await computed(ours(), demo, {})
    const rounded = await computed(ours(), demo, { wire: "bf16" })
    expect(rounded.exactServers).toEqual([])
    const saved = exact.links.map(({ received, sent }, at) => [
      (sent - rounded.links[at]!.sent) / TOKENS,
      (received - rounded.links[at]!.received) / TOKENS,
    ])
    expect(saved).toEqual([
      [HALF_SENT, HALF],
      [HALF_SENT, 0],
    ])
    const difference = nmse(exact.values, rounded.values)
    expect(difference).toBeGreaterThan(1e-8)
    expect(difference).toBeLessThan(1e-4)
  })

  test("what comes back to this host for a part of a layer is rounded as well", async () => {
    const overrides = [{ pattern: "blk\\.0\\.ffn_", device: "CPU" }]
    const exact = await computed(ours(), demo, { overrides })
    const rounded = await computed(ours(), demo, { overrides, wire: "bf16" })
    // To the first server: the embedding, and the result of the feed-forward. From it: what that is made of, and the hidden state.
    const [first] = rounded.links
    expect((exact.links[0]!.sent - first!.sent) / TOKENS).toBe(2 * HALF_SENT)
    expect((exact.links[0]!.received - first!.received) / TOKENS).toBe(2 * HALF)
    expect(nmse(exact.values, rounded.values)).toBeLessThan(1e-4)
  })

  test("a text is said", async () => {
    const options = { prompt: "You are", maxTokens: 12 }
    const exact = await recite(ours(), demo, options)
    const rounded = await recite(ours(), demo, { ...options, wire: "bf16" })
    expect(rounded.text).toBe(exact.text)
    expect(rounded.tokens).toHaveLength(12)
  })

  test("a cache of F32 is saved as it is, whole floats among it", async () => {
    const file = join(scratch, "slot.bin")
    await run(
      Effect.gen(function* () {
        const cluster = yield* openCluster(ours())
        const model = yield* cluster.load(
          yield* cluster.plan(demo, {
            ...{ threads: 1, contextSize: 512, wire: "bf16", flashAttention: "off" },
            ...{ typeK: "f32", typeV: "f32" },
          }),
        )
        yield* model.generateEach(
          Array.from({ length: 64 }, (_, at) => at),
          () => {},
          { maxTokens: 1, temp: 0 },
        )
        yield* model.saveSlot(0, file)
      }),
    )
    const bytes = readFileSync(file)
    let wholeCount = 0
    for (let at = 0; at + 4 <= bytes.length; at += 4) if (bytes.readUInt16LE(at) !== 0) wholeCount++
    expect(wholeCount).toBeGreaterThan(0.9 * (bytes.length / 4))
  })
})

test("tensors cut over two of our servers: sums are rounded, and add up to nearly the same", async () => {
  const exact = await computed(ours(), demo, { splitMode: "tensor", tensorSplit: [1, 1] })
  const rounded = await computed(ours(), demo, {
    splitMode: "tensor",
    tensorSplit: [1, 1],
    wire: "bf16",
  })
  expect(rounded.splitMode).toBe("tensor")
  const difference = nmse(exact.values, rounded.values)
  expect(difference).toBeGreaterThan(1e-8)
  expect(difference).toBeLessThan(1e-4)
})

test("tensors cut over servers that are not linked: what crosses for a sum is half", async () => {
  await using alone = await startOurServer({ flags: ["--peers", "none"] })
  const group = [ours()[0]!, alone.endpoint]
  const exact = await computed(group, demo, { splitMode: "tensor", tensorSplit: [1, 1] })
  const rounded = await computed(group, demo, {
    splitMode: "tensor",
    tensorSplit: [1, 1],
    wire: "bf16",
  })
  for (const [at, { received, sent }] of exact.links.entries()) {
    // Two sums for each of 8 layers; of a part that does not count nothing is read.
    expect((sent - rounded.links[at]!.sent) / TOKENS).toBe(16 * HALF_SENT)
    const readCount = (received - rounded.links[at]!.received) / TOKENS / HALF
    expect([8, 16]).toContain(readCount)
  }
  expect(nmse(exact.values, rounded.values)).toBeLessThan(1e-4)
})

describe("with a server of llama.cpp", () => {
  test("what is said to it stays F32, which the plan says", async () => {
    const exact = await computed([upstream.endpoint], demo, {})
    const rounded = await computed([upstream.endpoint], demo, { wire: "bf16" })
    expect(rounded.values).toEqual(exact.values)
    expect(rounded.links).toEqual(exact.links)
    expect(rounded.exactServers).toEqual([{ endpoint: upstream.endpoint, kind: "llama.cpp" }])
  })

  test("the plan says so of one that has but tensors that were told to go there", async () => {
    const plan = await run(
      Effect.gen(function* () {
        const cluster = yield* openCluster([ours()[0]!, upstream.endpoint])
        const overrides = [{ pattern: "blk\\.0\\.ffn_", device: upstream.endpoint }]
        const options = { threads: 1, contextSize: 512, tensorSplit: [1, 0], overrides } as const
        return yield* cluster.plan(demo, { ...options, wire: "bf16" })
      }),
    )
    expect(plan.devices.map(({ unitCount }) => unitCount > 0)).toEqual([true, false])
    expect(plan.exactServers).toEqual([{ endpoint: upstream.endpoint, kind: "llama.cpp" }])
  })

  test("only what crosses between this host and ours is rounded, which commands say once", async () => {
    const group = [ours()[0]!, upstream.endpoint]
    const exact = await computed(group, demo, { tensorSplit: [1, 1] })
    const rounded = await computed(group, demo, { tensorSplit: [1, 1], wire: "bf16" })
    expect((exact.links[0]!.sent - rounded.links[0]!.sent) / TOKENS).toBe(HALF_SENT)
    expect(rounded.links[0]!.received).toBe(exact.links[0]!.received)
    expect(rounded.links[1]).toEqual(exact.links[1]!)
    const flags = ["--rpc", group.join(","), "-ts", "1/1", "--wire", "bf16", "-t", "1"]
    const note = `note: Activations to and from one server stay F32 (--wire): ${upstream.endpoint} is a server of llama.cpp.`
    const ran = await runCli(["run", demo, ...flags, "-n", "4", "-p", "You", "-no-cnv"])
    expect(ran.exitCode).toBe(0)
    expect(oneLine(ran.stderr).split(note)).toHaveLength(2)
    const planned = await runCli(["plan", demo, ...flags])
    expect(oneLine(planned.stdout).split(note)).toHaveLength(2)
    const benched = await runCli(["bench", demo, ...flags, "-p", "0", "-n", "2", "-r", "1"])
    expect(oneLine(benched.stderr).split(note)).toHaveLength(2)
  })
})

test("verify compares F32 as ever, and says what rounding makes of it", async () => {
  const flags = ["--rpc", ours().join(","), "--wire", "bf16", "-t", "1"]
  const { exitCode, stdout } = await runCli(["verify", demo, ...flags, "--json"])
  expect(exitCode).toBe(0)
  const [row] = jsonLines(stdout)
  expect(row).toMatchObject({ isPassed: true, tolerance: 1e-4 })
  const { bf16, nmse: exact } = row as unknown as { bf16: { nmse: number }; nmse: number }
  expect(exact).toBeLessThan(1e-9)
  expect(bf16.nmse).toBeGreaterThan(1e-8)
  expect(bf16.nmse).toBeLessThan(1e-4)
  const text = await runCli(["verify", demo, ...flags])
  expect(text.stdout).toMatch(/--wire bf16 .* ok, for bf16\n/)
  expect(text.stdout).toEndWith(
    "1 of 1 agrees (tolerance: NMSE 0.0001; with bf16, from the same devices with F32: 0.02)\n",
  )
})
