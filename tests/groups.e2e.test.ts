/** Slots in groups: servers that hold one model compute at the same time. Time is counted in rounds of all servers. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import type { Cluster } from "@ggml-rpc/client"
import { Deferred, Effect, Fiber } from "effect"
import { ensureModel } from "./models/models.ts"
import { type Rounds, startRounds } from "./rounds.ts"
import { failureOf, type OurServer, openCluster, run, startOurServer } from "./servers.ts"

setDefaultTimeout(120_000)

const stack = new AsyncDisposableStack()
const servers: Array<OurServer> = []
let path: string

beforeAll(async () => {
  path = await ensureModel("tiny")
  for (let index = 0; index < 4; index++) servers.push(stack.use(await startOurServer()))
}, 60_000)

afterAll(() => stack.disposeAsync())

const portsOf = (count: number): ReadonlyArray<number> =>
  servers.slice(0, count).map(({ port }) => port)

interface Taken {
  readonly rounds: number
  readonly graphs: number
  readonly texts: ReadonlyArray<string>
}

/** Greedy texts of so many tokens at once, by a model over these servers; what they took, prompts left out. */
const generate = (
  { endpoints, rounds, graphs }: Rounds,
  textCount: number,
  maxTokens: number,
  options: Cluster.PlanOptions = {},
): Promise<Taken> =>
  run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpoints)
      const ones = endpoints.map(() => 1)
      const plan = yield* cluster.plan(path, {
        ...{ threads: 1, contextSize: 512, tensorSplit: ones, slots: textCount },
        ...options,
      })
      const model = yield* cluster.load(plan)
      const say = (seed: number, count: number) =>
        Effect.suspend(() => {
          let text = ""
          return Effect.map(
            model.generateEach(
              [1, 10 + seed],
              (token) => {
                text += token.text
              },
              { temp: 0, ignoreEos: true, maxTokens: count },
            ),
            () => text,
          )
        })
      const [roundsBefore, graphsBefore] = [rounds(), graphs()]
      const texts = yield* Effect.forEach(
        Array.from({ length: textCount }, (_, seed) => seed),
        (seed) => say(seed, maxTokens),
        { concurrency: "unbounded" },
      )
      return { rounds: rounds() - roundsBefore, graphs: graphs() - graphsBefore, texts }
    }),
  )

describe("texts in groups", () => {
  test("keep four servers at work: four texts take the rounds that one takes", async () => {
    using doors = startRounds(portsOf(4))
    const tokens = 16
    const { graphs, rounds, texts } = await generate(doors, 4, tokens)
    // Each token of each text goes through one server after the other.
    expect(graphs).toBe(4 * 4 * tokens)
    // And until the first server has had all four of them, and the last one has the last.
    expect(rounds).toBeLessThanOrEqual(4 * tokens + 8)
    expect(new Set(texts).size).toBeGreaterThan(1)
  })

  test("are one batch where one group is asked for", async () => {
    using doors = startRounds(portsOf(2))
    const tokens = 4
    const { rounds, graphs } = await generate(doors, 2, tokens, { groups: 1 })
    expect(graphs).toBe(rounds)
    // The first prompt may be at work before the second one is there.
    expect(rounds).toBeLessThanOrEqual(2 * (tokens + 1))
  })
})

test("a prompt is at work on all servers, micro-batch by micro-batch", async () => {
  using doors = startRounds(portsOf(3))
  const { endpoints, rounds, graphs } = doors
  await run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpoints)
      const plan = yield* cluster.plan(path, { threads: 1, contextSize: 1280 })
      const { ubatchSize } = plan.context
      expect(ubatchSize).toBeLessThan(512)
      const model = yield* cluster.load(plan)
      const batches = 8
      const prompt = Array.from({ length: batches * ubatchSize }, (_, at) => 3 + (at % 400))
      yield* model.generateEach(prompt, () => {}, { temp: 0, maxTokens: 1 })
      expect(graphs()).toBe(3 * batches)
      // The last server begins two rounds later.
      expect(rounds()).toBeLessThanOrEqual(batches + 2 + 2)
    }),
  )
})

test("a text goes where much of it is in the cache, else where least is to do", async () => {
  await run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(servers.slice(0, 2).map(({ endpoint }) => endpoint))
      const options = { threads: 1, contextSize: 4096, slots: 4, tensorSplit: [1, 1] }
      const model = yield* cluster.load(yield* cluster.plan(path, options))
      const say = (tokens: ReadonlyArray<number>, maxTokens: number) =>
        model.generateEach(tokens, () => {}, { temp: 0, ignoreEos: true, maxTokens })
      const prompt = (seed: number, length: number) =>
        Array.from({ length }, (_, at) => 3 + ((seed * 131 + at * 37) % 500))
      /** The slots of a text that runs for a while, and of one that comes meanwhile. */
      const slotsOf = (first: ReadonlyArray<number>, second: ReadonlyArray<number>) =>
        Effect.gen(function* () {
          const started = yield* Deferred.make<void>()
          const running = yield* Effect.fork(
            model.generateEach(first, () => Deferred.unsafeDone(started, Effect.void), {
              ...{ temp: 0, ignoreEos: true, maxTokens: 40 },
            }),
          )
          yield* Deferred.await(started)
          const { slot, cachedTokenCount } = yield* say(second, 1)
          return { slots: [(yield* Fiber.join(running)).slot, slot], cachedTokenCount }
        })
      const short = yield* slotsOf(prompt(1, 100), [...prompt(1, 100), 5, 6])
      expect(short.slots.map((slot) => slot % 2).sort()).toEqual([0, 1])
      const long = yield* slotsOf(prompt(2, 1200), [...prompt(2, 1200), 5, 6])
      expect(long.slots[0]! % 2).toBe(long.slots[1]! % 2)
      expect(long.cachedTokenCount).toBe(1200)
    }),
  )
})

describe("a plan", () => {
  const planOf = (endpointCount: number, options: Cluster.PlanOptions) =>
    Effect.flatMap(
      openCluster(servers.slice(0, endpointCount).map(({ endpoint }) => endpoint)),
      (cluster) => cluster.plan(path, { threads: 1, contextSize: 512, ...options }),
    )

  test("has a group for each server with layers, as far as there are slots, and the memory of all", async () => {
    const groupsOf = async (endpointCount: number, options: Cluster.PlanOptions) =>
      (await run(planOf(endpointCount, options))).context.groupCount ?? 1
    expect(await groupsOf(1, { slots: 4 })).toBe(1)
    expect(await groupsOf(3, { slots: 4 })).toBe(3)
    expect(await groupsOf(4, { slots: 2 })).toBe(2)
    expect(await groupsOf(3, { slots: 4, tensorSplit: [1, 0, 1] })).toBe(2)
    expect(await groupsOf(3, { slots: 1 })).toBe(1)
    const [one, two] = await Promise.all(
      [1, 2].map((groups) => run(planOf(2, { slots: 4, groups, tensorSplit: [1, 1] }))),
    )
    for (const [index, device] of two!.devices.entries()) {
      const single = one!.devices[index]!
      expect(device.contextBytes).toBe(2 * single.contextBytes)
      expect(device.computeBytes).toBe(2 * single.computeBytes)
      expect(device.weightBytes).toBe(single.weightBytes)
    }
  })

  test("with more groups than slots is none", async () => {
    const error = await failureOf(planOf(2, { slots: 2, groups: 3 }))
    expect(error).toMatchObject({ _tag: "PlanError", reason: "slots" })
    expect(error.message).toContain("3 groups cannot share 2 slots")
  })

  test("is what a load takes", async () => {
    const taken = (groups: number) =>
      run(
        Effect.gen(function* () {
          const cluster = yield* openCluster(servers.slice(0, 2).map(({ endpoint }) => endpoint))
          const options = { threads: 1, contextSize: 512, slots: 2, tensorSplit: [1, 1], groups }
          const plan = yield* cluster.plan(path, options)
          const { breakdown } = yield* cluster.load(plan)
          for (const [index, { contextBytes, weightBytes }] of plan.devices.entries()) {
            expect(breakdown.devices[index]).toMatchObject({ contextBytes, weightBytes })
          }
          return breakdown.devices.map(({ computeBytes }) => computeBytes)
        }),
      )
    const [one, two] = [await taken(1), await taken(2)]
    expect(two).toEqual(one.map((bytes) => 2 * bytes))
  })
})
