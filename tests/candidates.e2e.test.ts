/**
 * Logits that nobody looks at do not cross the wire: where samplers choose among the most likely tokens, the server finds these, or, where
 * tensors are cut, each server those of its part. The texts stay the same.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import type { Cluster } from "@ggml-rpc/client"
import { Effect } from "effect"
import { ensureModel } from "./models/models.ts"
import { ensureArchitectureModels } from "./peers/models.ts"
import { type ServerProcess, startUpstreamServer } from "./peers/process.ts"
import { enabledReleases } from "./peers/releases.ts"
import { type OurServer, openCluster, run, startOurServer } from "./servers.ts"

setDefaultTimeout(60_000)

const stack = new AsyncDisposableStack()
let server: OurServer
let second: OurServer
let old: OurServer
/** Of llama.cpp: its graph finds them. */
let stock: ServerProcess
let tiny: string

beforeAll(async () => {
  tiny = await ensureModel("tiny")
  server = stack.use(await startOurServer())
  second = stack.use(await startOurServer())
  stock = stack.use(await startUpstreamServer({ threads: 1 }))
  old = stack.use(await startOurServer({ flags: ["--protocol", "2.0"] }))
}, 600_000)

afterAll(() => stack.disposeAsync())

type Prompt = string | ReadonlyArray<number>

/** The texts, one after the other or all at once, and how much came from the first server, and from each, for a token. */
const generate = (
  path: string,
  plan: Cluster.PlanOptions,
  texts: ReadonlyArray<readonly [Prompt, Cluster.GenerateOptions]>,
  {
    on = server as ServerProcess,
    beside = [] as ReadonlyArray<ServerProcess>,
    isTogether = false,
  } = {},
) =>
  run(
    Effect.gen(function* () {
      const cluster = yield* openCluster([on, ...beside].map(({ endpoint }) => endpoint))
      const slots = isTogether ? texts.length : 1
      const options = { contextSize: 512, threads: 1, slots, ...plan }
      const model = yield* cluster.load(yield* cluster.plan(path, options))
      const received = Effect.map(cluster.traffic, (links) =>
        links.map(({ receivedBytes }) => receivedBytes),
      )
      const before = yield* received
      let guessCount = 0
      const said = yield* Effect.forEach(
        texts,
        ([prompt, options]) => {
          const ids: Array<number> = []
          const take = ({ id }: Cluster.GeneratedToken) => void ids.push(id)
          const all = { maxTokens: 24, cachePrompt: false, ...options }
          return Effect.map(model.generateEach(prompt, take, all), ({ draftedCount = 0 }) => {
            guessCount += draftedCount
            return ids
          })
        },
        isTogether ? { concurrency: "unbounded" } : {},
      )
      const tokenCount = said.flat().length
      const bytesOfEach = (yield* received).map((after, at) => (after - before[at]!) / tokenCount)
      return { said, bytesPerToken: bytesOfEach[0]!, bytesOfEach, model, guessCount }
    }),
  )

const prompt = [5, 9, 13, 17, 5, 9, 13]
/** Its values sum to the same whatever is beside them in a batch. */
const exact = { typeK: "f32", typeV: "f32", flashAttention: "off" } as const
const likely: ReadonlyArray<Cluster.GenerateOptions> = [
  { temp: 0 },
  { seed: 3 },
  { seed: 4, temp: 1.3, topK: 100, minP: 0 },
  { seed: 5, xtcProbability: 0.5, xtcThreshold: 0.001 },
  { temp: 0, ignoreEos: true },
]
const all: ReadonlyArray<Cluster.GenerateOptions> = [
  { temp: 0, topLogprobs: 2 },
  { seed: 6, topK: 0 },
  { seed: 7, repeatPenalty: 1.3 },
  { temp: 0, logitBias: [[40, 3]] },
  { temp: 0, grammar: "root ::= [a-z ]*" },
  { mirostat: 2, seed: 8 },
]
const textsOf = (options: ReadonlyArray<Cluster.GenerateOptions>) =>
  options.map((option) => [prompt, option] as const)

const each = [
  ["ours", () => server],
  ["llama.cpp's", () => stock],
] as const

test.each(each)(
  "what samplers choose among comes alone from %s, and they choose the same",
  async (_, on) => {
    const texts = textsOf(likely)
    const few = { ...exact, generatesOnly: true }
    const plain = await generate(tiny, exact, texts, { on: on() })
    const found = await generate(tiny, few, texts, { on: on() })
    expect(found.said).toEqual(plain.said)
    // All 512 logits, against 64 or 100 of them with their tokens.
    expect(plain.bytesPerToken).toBeGreaterThan(2000)
    expect(found.bytesPerToken).toBeLessThan(700)
    const together = await generate(tiny, few, texts, { on: on(), isTogether: true })
    expect(together.said).toEqual(plain.said)
  },
)

test("also where another server has only tensors that were put there", async () => {
  const texts = textsOf([{ temp: 0 }, { seed: 3 }])
  const overrides = [{ pattern: "blk.1.ffn_up", device: "RPC1" }]
  const plan = { ...exact, tensorSplit: [1, 0], overrides }
  const beside = [old]
  const plain = await generate(tiny, plan, texts, { beside })
  const found = await generate(tiny, { ...plan, generatesOnly: true }, texts, { beside })
  expect(found.said).toEqual(plain.said)
  // Besides logits there is what crosses for the other server's sake.
  expect(plain.bytesPerToken - found.bytesPerToken).toBeGreaterThan(1000)
})

test.each(each)(
  "tokens that are lowered or forbidden stand before those that are chosen among: %s",
  async (_, on) => {
    const [first] = (await generate(tiny, exact, textsOf([{ temp: 0 }]), { on: on() })).said
    const likeliest = [...new Set(first)]
    expect(likeliest.length).toBeGreaterThan(1)
    const forbidden = likeliest.map((id) => [id, Number.NEGATIVE_INFINITY] as const)
    const lowered = likeliest.map((id) => [id, -0.5] as const)
    const texts = textsOf(
      [forbidden, lowered].flatMap((logitBias) => [
        { temp: 0, logitBias },
        { seed: 9, topK: 64, logitBias },
      ]),
    )
    const plain = await generate(tiny, exact, texts, { on: on() })
    const found = await generate(tiny, { ...exact, generatesOnly: true }, texts, { on: on() })
    expect(found.said).toEqual(plain.said)
    expect(found.said[0]).not.toEqual(first!)
    expect(found.bytesPerToken).toBeLessThan(1200)
  },
)

test.each(each)(
  "samplers that may look at any token get all logits, also beside others: %s",
  async (_, on) => {
    const texts = textsOf([...all, ...likely, all[0]!])
    const plain = await generate(tiny, exact, texts, { on: on() })
    for (const isTogether of [false, true]) {
      const few = { ...exact, generatesOnly: true }
      const found = await generate(tiny, few, texts, { on: on(), isTogether })
      expect(found.said).toEqual(plain.said)
    }
  },
)

test.each(each)("guesses are checked by the same few: %s", async (_, on) => {
  const speculation = { ngram: { lookupCount: 1, draftCount: 12 }, draft: { path: tiny } }
  const texts = textsOf(likely)
  const plain = await generate(tiny, exact, texts, { on: on() })
  for (const isTogether of [false, true]) {
    const plan = { ...exact, generatesOnly: true, speculation }
    const found = await generate(tiny, plan, texts, { on: on(), isTogether })
    expect(found.said).toEqual(plain.said)
    expect(found.bytesPerToken).toBeLessThan(1500)
  }
})

test.each(each)(
  "a draft model on a server gives all logits where guesses must be likely: %s",
  async (_, on) => {
    const texts = textsOf([{ temp: 0 }, { seed: 3 }])
    const plain = await generate(tiny, exact, texts, { on: on() })
    for (const isTogether of [false, true]) {
      const devices = [on().endpoint]
      const draft = { path: tiny, devices, leastProbability: 1e-3 }
      const plan = { ...exact, generatesOnly: true, speculation: { draft } }
      const found = await generate(tiny, plan, texts, { on: on(), isTogether })
      expect(found.said).toEqual(plain.said)
      expect(found.guessCount).toBeGreaterThan(20)
    }
  },
)

test("an old version of ours finds them as well, and a server of llama.cpp's without the operation sends all", async () => {
  const texts = textsOf(likely)
  const plain = await generate(tiny, exact, texts)
  const found = await generate(tiny, { ...exact, generatesOnly: true }, texts, { on: old })
  expect(found.said).toEqual(plain.said)
  // 1, 40 or 100 of 512.
  expect(found.bytesPerToken).toBeLessThan(400)
  const [release] = enabledReleases()
  await using oldest = await startUpstreamServer({ release: release!, threads: 1 })
  const whole = await generate(tiny, { ...exact, generatesOnly: true }, texts, { on: oldest })
  expect(whole.said).toEqual(plain.said)
  expect(whole.bytesPerToken).toBeGreaterThan(2000)
})

describe("of tensors that are cut", () => {
  const cut = { splitMode: "tensor", tensorSplit: [1, 1] } as const
  const few = { ...cut, generatesOnly: true } as const
  const beside = () => [second]
  /** Half of 512 logits. */
  const HALF_BYTES = 4 * 256

  test("each server sends what samplers choose among of its part, and they choose the same", async () => {
    const one = likely.map((option) => textsOf([option]))
    const counts = [1, 40, 100, 40, 1]
    for (const [at, texts] of one.entries()) {
      const plain = await generate(tiny, cut, texts, { beside: beside() })
      const found = await generate(tiny, few, texts, { beside: beside() })
      expect(found.said).toEqual(plain.said)
      for (const bytes of plain.bytesOfEach) expect(bytes).toBeGreaterThanOrEqual(HALF_BYTES)
      // So many tokens with their logits; one that ends a text is forbidden in the last.
      const most = 8 + 8 * (counts[at]! + 4)
      for (const bytes of found.bytesOfEach) expect(bytes).toBeLessThan(most)
    }
  })

  test("several texts at once, in batches of which each row has its own", async () => {
    const texts = textsOf([{ temp: 0 }, { seed: 3 }, { temp: 0, ignoreEos: true }, { seed: 4 }])
    const plain = await generate(tiny, cut, texts, { beside: beside(), isTogether: true })
    const found = await generate(tiny, few, texts, { beside: beside(), isTogether: true })
    expect(found.said).toEqual(plain.said)
    for (const bytes of found.bytesOfEach) expect(bytes).toBeLessThan(8 * 41 + 8)
  })

  test("samplers that may look at any token get all logits, also beside others", async () => {
    // Flash attention, which cutting needs, adds up in an order that depends on the batch: seen where any token may be drawn.
    const steady = all.filter(({ topK, mirostat }) => topK !== 0 && mirostat === undefined)
    for (const [options, isTogether] of [
      [[...all, ...likely, all[0]!], false],
      [[...steady, ...likely, all[0]!], true],
    ] as const) {
      const texts = textsOf(options)
      const plain = await generate(tiny, cut, texts, { beside: beside() })
      const found = await generate(tiny, few, texts, { beside: beside(), isTogether })
      expect(found.said).toEqual(plain.said)
    }
  })

  test("guesses are checked by the same few", async () => {
    const draft = { path: tiny, devices: [server.endpoint, second.endpoint] }
    const speculation = { ngram: { lookupCount: 1, draftCount: 12 }, draft }
    const texts = textsOf([{ temp: 0 }, { seed: 3 }])
    const plain = await generate(tiny, cut, texts, { beside: beside() })
    for (const isTogether of [false, true]) {
      const plan = { ...few, speculation }
      const found = await generate(tiny, plan, texts, { beside: beside(), isTogether })
      expect(found.said).toEqual(plain.said)
      expect(found.guessCount).toBeGreaterThan(10)
    }
  })

  test("where one server does not know how, it sends all of its part, and the other one does not", async () => {
    const texts = textsOf([{ temp: 0 }, { seed: 3 }])
    const plain = await generate(tiny, cut, texts, { beside: [stock] })
    const found = await generate(tiny, few, texts, { beside: [stock] })
    expect(found.said).toEqual(plain.said)
    // Sums go through the client.
    const [saved, savedOfStock] = plain.bytesOfEach.map(
      (bytes, at) => bytes - found.bytesOfEach[at]!,
    )
    expect(saved).toBeGreaterThan(HALF_BYTES - 8 * 41)
    expect(Math.abs(savedOfStock!)).toBeLessThan(1)
  })

  test("of which there are few, all come", async () => {
    const texts = textsOf([{ seed: 3, topK: 130 }])
    const plain = await generate(tiny, cut, texts, { beside: beside() })
    const found = await generate(tiny, few, texts, { beside: beside() })
    expect(found.said).toEqual(plain.said)
    expect(found.bytesOfEach).toEqual(plain.bytesOfEach)
  })

  test("of an architecture whose batches libllama puts in another order, and of other ones", async () => {
    const wanted = /^(gemma2|lfm2|qwen3next|cohere2)-/
    const models = (await ensureArchitectureModels()).filter(({ name }) => wanted.test(name))
    expect(models.length).toBeGreaterThan(2)
    for (const { path } of models) {
      // Where a batch is cut into equal pieces of each text, the longest has its output last.
      const texts = [4, 7, 5].map(
        (length, seed) => [prompt.slice(0, length), { seed, topK: 5, maxTokens: 4 }] as const,
      )
      const plan = { ...cut, contextSize: 256 }
      const plain = await generate(path, plan, texts, { beside: beside() })
      for (const isTogether of [false, true]) {
        const some = { ...plan, generatesOnly: true }
        const found = await generate(path, some, texts, { beside: beside(), isTogether })
        expect([path, found.said]).toEqual([path, plain.said])
      }
    }
  })
})

test("of other architectures as well; and what is evaluated comes whole", async () => {
  const wanted = /^(gemma3|mamba|qwen2moe|cogvlm)-/
  const models = (await ensureArchitectureModels()).filter(({ name }) => wanted.test(name))
  expect(models.length).toBeGreaterThan(3)
  for (const { path } of models) {
    const texts = textsOf([{ temp: 0 }, { seed: 3, topK: 5 }].map((o) => ({ ...o, maxTokens: 4 })))
    const plain = await generate(path, { contextSize: 256 }, texts)
    for (const on of [server, stock]) {
      const few = { contextSize: 256, generatesOnly: true }
      const found = await generate(path, few, texts, { on })
      expect([path, found.said]).toEqual([path, plain.said])
    }
  }
  const tokens = Array.from({ length: 70 }, (_, index) => 3 + index)
  const evaluations = await Promise.all(
    [false, true].map((generatesOnly) =>
      run(
        Effect.gen(function* () {
          const cluster = yield* openCluster([server.endpoint])
          const plan = yield* cluster.plan(tiny, { ...exact, contextSize: 256, generatesOnly })
          return (yield* (yield* cluster.load(plan)).evaluate(tokens)).values
        }),
      ),
    ),
  )
  const [plain, found] = evaluations
  const difference = Math.max(...plain!.map((value, at) => Math.abs(value - found![at]!)))
  expect(difference).toBeLessThan(1e-3)
})
