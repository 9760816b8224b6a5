/** Every tensor cut over servers (`splitMode: "tensor"`): what a model can do stays what it is with whole layers. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Cluster } from "@ggml-rpc/client"
import { readGguf } from "@ggml-rpc/gguf"
import { Deferred, Effect, Fiber, Stream } from "effect"
import { ensureModel } from "./models/models.ts"
import { nmse } from "./nmse.ts"
import { type ArchitectureModel, ensureArchitectureModels } from "./peers/models.ts"
import { ensurePeers } from "./peers/peers.ts"
import { runProcess, type ServerProcess, startUpstreamServer } from "./peers/process.ts"
import { enabledReleases } from "./peers/releases.ts"
import { failureOf, type OurServer, openCluster, run, startOurServer } from "./servers.ts"

setDefaultTimeout(120_000)

const scratch = mkdtempSync(join(tmpdir(), "cut-"))
const stack = new AsyncDisposableStack()
const servers: Array<OurServer> = []
let tiny: string
let architectures: ReadonlyArray<ArchitectureModel>

beforeAll(async () => {
  for (let index = 0; index < 2; index++) servers.push(stack.use(await startOurServer()))
  tiny = await ensureModel("tiny")
  architectures = await ensureArchitectureModels()
}, 600_000)

afterAll(async () => {
  await stack.disposeAsync()
  rmSync(scratch, { recursive: true, force: true })
})

const endpoints = (): readonly string[] => servers.map(({ endpoint }) => endpoint)
const pathOf = (name: string): string =>
  architectures.find((architecture) => architecture.name === name)!.path

const prompt = (length: number): ReadonlyArray<number> =>
  Array.from({ length }, (_, index) => (index * 37 + 5) % 120)

/** What `use` makes of a model with its layers split, and with its tensors cut. */
const bothWays = async <A>(
  path: string,
  options: Cluster.PlanOptions,
  use: (model: Cluster.ClusterModel) => Effect.Effect<A, never> | Effect.Effect<A, unknown>,
): Promise<{ readonly whole: A; readonly cut: A }> => {
  const found = await run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpoints())
      const made = []
      for (const splitMode of ["layer", "tensor"] as const) {
        const plan = yield* cluster.plan(path, {
          threads: 1,
          contextSize: 512,
          splitMode,
          // What a noisy machine measures shall not decide.
          ...(splitMode === "tensor" && { tensorSplit: [1, 1] }),
          ...options,
        })
        expect(plan.splitMode).toBe(splitMode)
        for (const { unitCount } of plan.devices) expect(unitCount).toBeGreaterThan(0)
        const used = Effect.scoped(Effect.flatMap(cluster.load(plan), use))
        made.push(yield* Effect.orDie(used))
      }
      return made
    }),
  )
  return { whole: found[0]!, cut: found[1]! }
}

const say = (
  model: Cluster.ClusterModel,
  tokens: ReadonlyArray<number>,
  options: Cluster.GenerateOptions = {},
) =>
  Effect.map(
    Stream.runCollect(
      model.generate(tokens, { maxTokens: 12, temp: 0, ignoreEos: true, ...options }),
    ),
    (pieces) => [...pieces].map(({ id }) => id).filter((id) => id >= 0),
  )

describe("a model whose tensors are cut", () => {
  test("has slots, of which each text is what it is", async () => {
    const texts = Array.from({ length: 6 }, (_, index) => prompt(8 + index * 5))
    const { whole, cut } = await bothWays(tiny, { slots: 3, ubatchSize: 16 }, (model) =>
      Effect.forEach(texts, (text) => say(model, text), { concurrency: "unbounded" }),
    )
    expect(cut).toEqual(whole)
  })

  test("forgets what is old where its context is full", async () => {
    const { whole, cut } = await bothWays(tiny, { contextSize: 256 }, (model) =>
      say(model, prompt(200), { contextShift: true, keepTokens: 10, maxTokens: 150 }),
    )
    expect(whole).toHaveLength(150)
    expect(cut).toEqual(whole)
  })

  test("has caches of quantized types", async () => {
    const { whole, cut } = await bothWays(tiny, { typeK: "q8_0", typeV: "q8_0" }, (model) =>
      say(model, prompt(40)),
    )
    expect(cut).toEqual(whole)
  })

  test("gives embeddings of texts", async () => {
    const options = { embeddings: true, pooling: "mean" } as const
    const { whole, cut } = await bothWays(pathOf("llama-dense"), options, (model) =>
      model.embed(prompt(30)),
    )
    for (const [at, value] of whole.entries()) expect(cut[at]).toBeCloseTo(value, 4)
    expect(Math.max(...whole.map(Math.abs))).toBeGreaterThan(0.01)
  })

  test.each([
    ["layer", "tensor"],
    ["tensor", "layer"],
    ["tensor", "tensor"],
  ] as const)("has slots that are saved and restored: %s, then %s", async (from, to) => {
    const file = join(scratch, `${from}-${to}.bin`)
    const text = prompt(100)
    const [saved, goneOn, restored, again] = await run(
      Effect.gen(function* () {
        const cluster = yield* openCluster(endpoints())
        const load = (splitMode: "layer" | "tensor") =>
          Effect.flatMap(cluster.plan(tiny, { threads: 1, contextSize: 512, splitMode }), (plan) =>
            cluster.load(plan),
          )
        const first = Effect.gen(function* () {
          const model = yield* load(from)
          yield* say(model, text, { maxTokens: 1 })
          const count = yield* model.saveSlot(0, file)
          return [count, yield* say(model, text)] as const
        })
        const second = Effect.gen(function* () {
          const model = yield* load(to)
          const count = yield* model.restoreSlot(0, file)
          return [count, yield* say(model, text)] as const
        })
        return [...(yield* Effect.scoped(first)), ...(yield* Effect.scoped(second))] as const
      }),
    )
    expect([saved, restored]).toEqual([100, 100])
    expect(again).toEqual(goneOn)
  })
})

/** Servers of whatever version tell how fast they multiply, and parts are in proportion to that. */
const checkShares = ({ cutShares, devices }: Cluster.ModelPlan): void => {
  if (cutShares === undefined || !("speeds" in cutShares)) {
    throw new Error(`nothing was measured: ${cutShares?.reason}`)
  }
  const { speeds } = cutShares
  expect(Math.max(...speeds)).toBe(1)
  expect(Math.min(...speeds)).toBeGreaterThan(0)
  const whole = speeds.reduce((sum, speed) => sum + speed, 0)
  for (const [at, { share }] of devices.entries()) expect(share).toBeCloseTo(speeds[at]! / whole)
}

/** They would misread its parameters, and are not asked to compute it. */
const MISREAD_FLASH_ATTENTION: ReadonlySet<string> = new Set(["2.0.0", "3.0.0", "3.6.0", "3.6.1"])

describe("servers of llama.cpp", () => {
  test.each(enabledReleases().map((release) => [release.protocol, release] as const))(
    "of protocol %s compute what ours do",
    async (_, release) => {
      const path = await ensureModel("mixed")
      await using first = await startUpstreamServer({ release, threads: 1 })
      await using second = await startUpstreamServer({ release, threads: 1 })
      if (MISREAD_FLASH_ATTENTION.has(release.protocol)) {
        const error = await failureOf(
          Effect.flatMap(openCluster([first.endpoint, second.endpoint]), (cluster) =>
            cluster.plan(path, { threads: 1, contextSize: 512, splitMode: "tensor" }),
          ),
        )
        expect(error).toMatchObject({ _tag: "PlanError", reason: "split-mode" })
        expect(error.message).toContain("cannot compute FLASH_ATTN_EXT")
        return
      }
      const found = await run(
        Effect.gen(function* () {
          const all: Array<readonly [Float32Array, ReadonlyArray<number>]> = []
          const upstream = [first.endpoint, second.endpoint]
          for (const [on, sums] of [
            [upstream, undefined],
            [upstream, "ggml"],
            [endpoints(), undefined],
          ] as const) {
            const evaluated = Effect.gen(function* () {
              const cluster = yield* openCluster(on)
              const options = { threads: 1, contextSize: 512, splitMode: "tensor", sums } as const
              if (sums === undefined) checkShares(yield* cluster.plan(path, options))
              const even = { ...options, tensorSplit: [1, 1] }
              const model = yield* cluster.load(yield* cluster.plan(path, even))
              const { values } = yield* model.evaluate(prompt(40))
              return [values, yield* say(model, prompt(20))] as const
            })
            all.push(yield* Effect.scoped(evaluated))
          }
          return all
        }),
      )
      const [theirs, byGgml, ours] = found
      expect(theirs).toEqual(byGgml!)
      // Weights are repacked on ours.
      expect(nmse(ours![0], theirs![0])).toBeLessThan(1e-3)
    },
  )
})

test("llama.cpp's own client has the same text over our servers as over its own, with a prompt of several micro-batches", async () => {
  const path = await ensureModel("mixed")
  const completion = (await ensurePeers(["llama-completion"]))["llama-completion"]
  const words = Array.from({ length: 20 }, (_, index) => `word${(index * 37) % 400}`).join(" ")
  const textOver = async (on: ReadonlyArray<ServerProcess>): Promise<string> => {
    const result = await runProcess([
      ...[completion, "-m", path, "--rpc", on.map(({ endpoint }) => endpoint).join(",")],
      ...["-sm", "tensor", "-ngl", "99", "-ub", "32", "-b", "64", "-c", "512", "-p", words],
      ...["-n", "12", "-t", "1", "--temp", "0", "-no-cnv", "--no-display-prompt", "--no-warmup"],
    ])
    expect(result).toMatchObject({ exitCode: 0 })
    return result.stdout
  }
  // Weights as they came, and the version of this client at once.
  const flags = ["--no-repack"]
  await using first = await startOurServer({ protocol: "peers", flags })
  await using second = await startOurServer({ protocol: "peers", flags })
  await using third = await startUpstreamServer({ threads: 1 })
  await using fourth = await startUpstreamServer({ threads: 1 })
  const theirs = await textOver([third, fourth])
  expect(theirs.length).toBeGreaterThan(20)
  expect(await textOver([first, second])).toBe(theirs)
})

test("a server that gives less memory than it said is named, and the engine lives", async () => {
  const path = await ensureModel("mixed")
  await using other = await startOurServer({ flags: ["--client-mem-limit", "12M"] })
  const [error, after, narrow] = await run(
    Effect.gen(function* () {
      const cluster = yield* openCluster([servers[0]!.endpoint, other.endpoint])
      // What stays free by default is more than it has.
      const without = yield* cluster.plan(tiny, { threads: 1, splitMode: "tensor" })
      const options = {
        threads: 1,
        contextSize: 256,
        splitMode: "tensor",
        headroomBytes: 0,
      } as const
      const { devices, ...plan } = yield* cluster.plan(tiny, options)
      // As if it had room: the plan of a small model, with a large one.
      const load = cluster.load({
        ...plan,
        devices,
        path,
        context: { ...plan.context, contextSize: 4096 },
      })
      const failed = yield* Effect.either(Effect.scoped(Effect.asVoid(load)))
      const model = yield* cluster.load(yield* cluster.plan(tiny, options))
      return [failed, yield* say(model, prompt(10)), without] as const
    }),
  )
  expect(error).toMatchObject({
    _tag: "Left",
    left: { _tag: "RemoteMemoryError", endpoint: other.endpoint },
  })
  expect(after).toHaveLength(12)
  expect(narrow.splitMode).toBe("layer")
  expect(narrow.devices.map(({ unitCount }) => unitCount)).toEqual([5, 0])
})

describe("a plan that chooses", () => {
  const choose = (path: string, options: Cluster.PlanOptions = {}) =>
    run(
      Effect.flatMap(openCluster(endpoints()), (cluster) =>
        cluster.plan(path, { threads: 1, contextSize: 512, splitMode: "auto", ...options }),
      ),
    )

  test("measures servers and links, and is the faster one by its estimate", async () => {
    const plan = await choose(await ensureModel("mixed"))
    if (plan.choice === undefined || !("times" in plan.choice)) throw new Error("no estimate")
    const { layer, tensor, faster } = plan.choice.times
    for (const { tokenMs, promptMs } of [layer, tensor]) {
      expect(tokenMs).toBeGreaterThan(0)
      expect(promptMs).toBeGreaterThan(tokenMs)
    }
    expect(plan.splitMode).toBe(faster)
  })

  test("believes what earlier starts measured, of servers that still run", async () => {
    const file = join(scratch, "speeds.json")
    const path = await ensureModel("mixed")
    const bytesOf = async (): Promise<ReadonlyArray<number>> => {
      const { GGML_RPC_DEVICE_SPEEDS: before } = process.env
      process.env.GGML_RPC_DEVICE_SPEEDS = file
      try {
        const { devices } = await choose(path, { splitMode: "tensor" })
        return devices.map(({ weightBytes }) => weightBytes)
      } finally {
        process.env.GGML_RPC_DEVICE_SPEEDS = before
      }
    }
    await bytesOf()
    const kept = Object.entries(JSON.parse(readFileSync(file, "utf8")) as Record<string, object>)
    expect(kept.map(([key]) => key.split(" ")[0]).toSorted()).toEqual([...endpoints()].toSorted())
    const slow = { weightBytesPerSecond: 1e6, multiplicationsPerSecond: 1e6, count: 3 }
    const pretended = kept.map(([key, value]) =>
      key.startsWith(`${endpoints()[0]} `)
        ? [key, { ...value, ...slow }]
        : [key, { ...value, count: 3 }],
    )
    writeFileSync(file, JSON.stringify(Object.fromEntries(pretended)))
    const [first, second] = await bytesOf()
    expect(first).toBeLessThan(second! / 4)
    // Nothing was measured.
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual(Object.fromEntries(pretended))
  })

  test("splits layers where nothing else is possible, and says why", async () => {
    const grok = await choose(pathOf("grok-moe"))
    expect(grok.splitMode).toBe("layer")
    expect(grok.choice).toMatchObject({ reason: expect.stringContaining("architecture 'grok'") })
    const alone = await choose(tiny, { devices: ["RPC1"] })
    expect(alone.choice).toEqual({ reason: "there is one device" })
    const withoutFlash = await choose(tiny, { flashAttention: "off" })
    expect(withoutFlash.choice).toMatchObject({
      reason: expect.stringContaining("flash attention"),
    })
  })

  test("does not wait for a text at work: it goes by what is known by then", async () => {
    const options = { threads: 1, contextSize: 256, splitMode: "auto" } as const
    const plans = await run(
      Effect.gen(function* () {
        const cluster = yield* openCluster(endpoints())
        const model = yield* cluster.load(
          yield* cluster.plan(tiny, { ...options, splitMode: "layer" }),
        )
        const whileSaying = Effect.gen(function* () {
          const begun = yield* Deferred.make<void>()
          const endless = { contextShift: true, ignoreEos: true, maxTokens: 1_000_000 }
          const text = yield* Effect.fork(
            Stream.runForEach(model.generate(prompt(8), endless), () =>
              Deferred.succeed(begun, undefined),
            ),
          )
          yield* Deferred.await(begun)
          const plan = yield* cluster.plan(tiny, options)
          expect(text.unsafePoll()).toBeNull()
          yield* Fiber.interrupt(text)
          return plan
        })
        const early = yield* whileSaying
        const idle = yield* cluster.plan(tiny, options)
        return [early, idle, yield* whileSaying]
      }),
    )
    const [early, idle, late] = plans.map(({ choice }) => choice)
    expect(early).toEqual({ reason: "how fast RPC0 is could not be measured" })
    if (!("times" in idle!)) throw new Error("no estimate")
    expect(late).toEqual(idle)
  })
})

test("without layers on devices nothing is cut, and this host computes all", async () => {
  const { plan, said } = await run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpoints())
      const options = { threads: 1, contextSize: 256, splitMode: "tensor", gpuLayers: 0 } as const
      const plan = yield* cluster.plan(tiny, options)
      return { plan, said: yield* say(yield* cluster.load(plan), prompt(10)) }
    }),
  )
  expect(plan.splitMode).toBe("layer")
  expect(plan.host.unitCount).toBe(plan.unitCount)
  expect(said.length).toBeGreaterThan(0)
})

test("factors of rotations lie with their layers, and a prompt in many micro-batches comes through", async () => {
  // As Llama 3 has them. On this host, they would tear each graph into pieces, which ggml loses track of where tensors are cut.
  const path = pathOf("llama-dense")
  const { whole, cut } = await bothWays(path, { ubatchSize: 2 }, (model) =>
    Effect.map(
      model
        .generate(prompt(11), { maxTokens: 6, temp: 0, ignoreEos: true })
        .pipe(Stream.runCollect),
      (tokens) => ({ count: tokens.length, hostBytes: model.plan.host.weightBytes }),
    ),
  )
  const { tensors } = readGguf(path)
  const { sizeBytes } = tensors.find(({ name }) => name === "token_embd.weight")!
  expect(whole).toEqual({ count: 6, hostBytes: sizeBytes })
  expect(cut).toEqual(whole)
})

describe("what cannot be", () => {
  const errorFor = (path: string, options: Cluster.PlanOptions) =>
    failureOf(
      Effect.flatMap(openCluster(endpoints()), (cluster) =>
        cluster.plan(path, { threads: 1, contextSize: 512, splitMode: "tensor", ...options }),
      ),
    )

  test.each([
    [{ flashAttention: "off" }, "with flash attention only"],
    [{ typeK: "f32" }, "the KV cache is of F16"],
    [{ typeV: "f32" }, "the KV cache is of F16"],
    [{ kvOffload: false }, "leave out --no-kv-offload"],
    [{ overrides: [{ pattern: "ffn_up", device: "CPU" }] }, "leave out --override-tensor"],
    [{ overrides: [{ pattern: "ffn_up", device: "RPC1" }] }, "leave out --override-tensor"],
    [{ adapters: [{ path: "lora.gguf", scale: 1 }] }, "leave out --lora"],
    [{ tensorSplit: [1, 2, 3] }, "--tensor-split has 3 values, but there are 2 devices"],
  ] as const)("is said: %j", async (options, message) => {
    const error = await errorFor(tiny, options as Cluster.PlanOptions)
    expect(error).toMatchObject({ _tag: "PlanError" })
    expect(error.message).toContain(message)
    expect(error.message).not.toContain("\n")
  })

  test("is said of architectures that llama.cpp does not cut, and of rows of a single block", async () => {
    const grok = await errorFor(pathOf("grok-moe"), {})
    expect(grok.message).toContain("a model of the architecture 'grok'")
    expect(grok.message).toContain("--split-mode layer")
  })

  test("and one device has nothing to share: its layers are whole", async () => {
    const plans = await run(
      Effect.gen(function* () {
        const cluster = yield* openCluster(endpoints())
        const options = { threads: 1, contextSize: 512, splitMode: "tensor" } as const
        return [
          yield* cluster.plan(tiny, { ...options, devices: ["RPC1"] }),
          yield* cluster.plan(tiny, { ...options, tensorSplit: [1, 0] }),
        ]
      }),
    )
    expect(plans.map(({ splitMode }) => splitMode)).toEqual(["layer", "layer"])
  })
})
