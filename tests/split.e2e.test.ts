/** One model on two servers, at the edges: batches smaller than the prompt, full contexts, memory. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { statSync } from "node:fs"
import type { Cluster, GenerateStats } from "@ggml-rpc/client"
import { Effect, Either, Stream } from "effect"
import { ensureModel } from "./models/models.ts"
import { peakResidentBytes } from "./peers/process.ts"
import { type OurServer, openCluster, recite, run, startOurServer } from "./servers.ts"

setDefaultTimeout(120_000)

const stack = new AsyncDisposableStack()
const servers: Array<OurServer> = []
const endpoints = (): readonly string[] => servers.map(({ endpoint }) => endpoint)

beforeAll(async () => {
  for (let index = 0; index < 2; index++) servers.push(stack.use(await startOurServer()))
})

afterAll(() => stack.disposeAsync())

const prompt = (length: number, vocabularySize: number): readonly number[] =>
  Array.from({ length }, (_, index) => (index * 7919 + 3) % vocabularySize)

const load = (path: string, options: Cluster.PlanOptions = {}) =>
  Effect.gen(function* () {
    const cluster = yield* openCluster(endpoints())
    const plan = yield* cluster.plan(path, { threads: 1, ...options })
    return { cluster, model: yield* cluster.load(plan) }
  })

describe("batches", () => {
  test.each([
    { batchSize: 64, ubatchSize: 16 },
    { batchSize: 64, ubatchSize: 64 },
    { batchSize: 1, ubatchSize: 1 },
    { batchSize: 37, ubatchSize: 512 },
  ])("%o gives the tokens of one batch", async (sizes) => {
    const path = await ensureModel("tiny")
    const request = { prompt: prompt(150, 512), maxTokens: 12 }
    const expected = await recite([], path, request)
    const found = await recite(endpoints(), path, { ...request, ...sizes })
    expect(found.tokens).toEqual(expected.tokens)
  })

  test("an evaluation longer than a batch gives the logits of one batch", async () => {
    const path = await ensureModel("tiny")
    const tokens = prompt(300, 512)
    const evaluate = (options: Cluster.PlanOptions) =>
      run(
        Effect.flatMap(load(path, { ubatchSize: 100, ...options }), ({ model }) =>
          model.evaluate(tokens),
        ),
      )
    const whole = await evaluate({ batchSize: 512 })
    const parts = await evaluate({ batchSize: 100 })
    expect(parts.rowCount).toBe(300)
    expect(parts.values).toEqual(whole.values)
  })
})

test("a generation ends where the context is full, and the next one starts anew", async () => {
  const path = await ensureModel("tiny")
  const [first, second] = await run(
    Effect.gen(function* () {
      const { model } = yield* load(path, { contextSize: 256 })
      expect(model.contextSize).toBe(256)
      const generate = Effect.gen(function* () {
        let stats: GenerateStats | undefined
        const pieces = yield* Stream.runCollect(
          model.generate(prompt(240, 512), { temp: 0, ignoreEos: true }, (found) => {
            stats = found
          }),
        )
        return { tokens: [...pieces].map(({ id }) => id).filter((id) => id >= 0), stats }
      })
      return [yield* generate, yield* generate] as const
    }),
  )
  expect(first.stats).toMatchObject({ promptTokenCount: 240, stopReason: "context-full" })
  // The last token needs no place: nothing is computed after it.
  expect(first.tokens).toHaveLength(256 - 240 + 1)
  expect(second.tokens).toEqual(first.tokens)
})

test("a key-value cache of another type, and flash attention, on and off", async () => {
  const path = await ensureModel("mixed")
  const request = { prompt: prompt(40, 8192), maxTokens: 8 }
  for (const options of [
    { flashAttention: "on", typeK: "q8_0", typeV: "q8_0" },
    { flashAttention: "off" },
    { flashAttention: "on" },
  ] as const) {
    const expected = await recite([], path, { ...request, ...options })
    const found = await recite(endpoints(), path, { ...request, ...options })
    expect(found.tokens).toEqual(expected.tokens)
  }
})

test("a mixture of experts gives the tokens of one machine", async () => {
  const path = await ensureModel("moe")
  const request = { prompt: prompt(70, 4096), maxTokens: 24 }
  const expected = await recite([], path, request)
  const found = await recite(endpoints(), path, request)
  expect(found.tokens).toEqual(expected.tokens)
})

test("one model after the other in one cluster, each freed before the next", async () => {
  const demo = await ensureModel("demo")
  const mixed = await ensureModel("mixed")
  const tokensOf = (cluster: Cluster.Cluster, path: string) =>
    Effect.scoped(
      Effect.gen(function* () {
        const model = yield* cluster.load(yield* cluster.plan(path, { threads: 1 }))
        const pieces = yield* Stream.runCollect(
          model.generate([1, 5, 9], { maxTokens: 6, temp: 0 }),
        )
        return [...pieces].map(({ id }) => id)
      }),
    )
  const [first, other, again] = await run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpoints())
      return [
        yield* tokensOf(cluster, demo),
        yield* tokensOf(cluster, mixed),
        yield* tokensOf(cluster, demo),
      ] as const
    }),
  )
  expect(again).toEqual(first)
  expect(other).not.toEqual(first)
})

test("a cluster that holds a model takes no other one until its scope closes", async () => {
  const path = await ensureModel("demo")
  await run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpoints())
      const plan = yield* cluster.plan(path, { threads: 1 })
      yield* Effect.scoped(
        Effect.gen(function* () {
          const model = yield* cluster.load(plan)
          const second = yield* Effect.either(Effect.scoped(cluster.load(plan)))
          const error = Either.getOrThrow(Either.flip(second))
          expect(error).toMatchObject({ _tag: "ModelError", during: "load" })
          expect(error.message).toContain(`the cluster holds ${path} already`)
          expect((yield* model.evaluate([1, 2])).rowCount).toBe(2)
        }),
      )
      // A load that failed holds no place, whatever becomes of its scope.
      const nowhere = { ...plan, path: `${path}.not-there` }
      expect(Either.isLeft(yield* Effect.either(cluster.load(nowhere)))).toBe(true)
      const again = yield* cluster.load(plan)
      expect((yield* again.evaluate([1, 2])).rowCount).toBe(2)
    }),
  )
})

test("neither the engine nor a session needs much more memory than the weights", async () => {
  const path = await ensureModel("q8_0")
  const fileBytes = statSync(path).size
  const extraBytes = 160 * 1024 * 1024
  const { engine, sessions, shares } = await run(
    Effect.gen(function* () {
      const { cluster, model } = yield* load(path)
      yield* Stream.runDrain(model.generate(prompt(600, 32000), { maxTokens: 4, temp: 0 }))
      return {
        engine: peakResidentBytes(cluster.enginePid),
        // The front process hands a client over, so the largest session is the one that has it.
        sessions: servers.map((server) => Math.max(...server.sessionPids().map(peakResidentBytes))),
        shares: model.breakdown.devices.map(
          (use) => use.weightBytes + use.contextBytes + use.computeBytes,
        ),
      }
    }),
  )
  expect(engine).toBeLessThan(fileBytes + extraBytes)
  for (const [index, bytes] of sessions.entries()) {
    expect(bytes).toBeGreaterThan(shares[index]! / 2)
    expect(bytes).toBeLessThan(shares[index]! + extraBytes)
  }
})

test("of seventeen devices fifteen get layers, the others are named", async () => {
  const path = await ensureModel("moe")
  const request = { prompt: [1, 17, 290], maxTokens: 8, contextSize: 256 }
  const { tokens } = await recite([], path, request)
  await using server = await startOurServer({
    flags: ["--device", Array(17).fill("CPU").join(",")],
  })
  const { leftOut } = await run(
    Effect.flatMap(openCluster([server.endpoint]), (cluster) =>
      cluster.plan(path, { threads: 1, contextSize: 256 }),
    ),
  )
  expect(leftOut).toEqual(["RPC15", "RPC16"])
  const split = await recite([server.endpoint], path, request)
  expect(split.tokens).toEqual(tokens)
  expect(split.unitCounts.filter((count) => count > 0)).toHaveLength(15)
})
