/**
 * Logits that nobody looks at do not cross the wire: where samplers choose among the most likely tokens, the server finds these. The
 * texts stay the same.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import type { Cluster } from "@ggml-rpc/client"
import { Effect } from "effect"
import { ensureModel } from "./models/models.ts"
import { ensureArchitectureModels } from "./peers/models.ts"
import { type OurServer, openCluster, run, startOurServer } from "./servers.ts"

setDefaultTimeout(60_000)

const stack = new AsyncDisposableStack()
let server: OurServer
let old: OurServer
let tiny: string

beforeAll(async () => {
  tiny = await ensureModel("tiny")
  server = stack.use(await startOurServer())
  old = stack.use(await startOurServer({ flags: ["--protocol", "2.0"] }))
}, 600_000)

afterAll(() => stack.disposeAsync())

type Prompt = string | ReadonlyArray<number>

/** The texts, one after the other or all at once, and how much came from the server for a token. */
const generate = (
  path: string,
  plan: Cluster.PlanOptions,
  texts: ReadonlyArray<readonly [Prompt, Cluster.GenerateOptions]>,
  { on = server, beside = [] as ReadonlyArray<OurServer>, isTogether = false } = {},
) =>
  run(
    Effect.gen(function* () {
      const cluster = yield* openCluster([on, ...beside].map(({ endpoint }) => endpoint))
      const slots = isTogether ? texts.length : 1
      const options = { contextSize: 512, threads: 1, slots, ...plan }
      const model = yield* cluster.load(yield* cluster.plan(path, options))
      const received = Effect.map(cluster.traffic, ([link]) => link!.receivedBytes)
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
      return { said, bytesPerToken: ((yield* received) - before) / tokenCount, model, guessCount }
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

test("what samplers choose among comes alone, and they choose the same", async () => {
  const texts = textsOf(likely)
  const plain = await generate(tiny, exact, texts)
  const found = await generate(tiny, { ...exact, generatesOnly: true }, texts)
  expect(found.said).toEqual(plain.said)
  // All 512 logits, against 64 or 100 of them with their tokens.
  expect(plain.bytesPerToken).toBeGreaterThan(2000)
  expect(found.bytesPerToken).toBeLessThan(700)
  const together = await generate(tiny, { ...exact, generatesOnly: true }, texts, {
    isTogether: true,
  })
  expect(together.said).toEqual(plain.said)
})

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

test("tokens that are lowered or forbidden stand before those that are chosen among", async () => {
  const [first] = (await generate(tiny, exact, textsOf([{ temp: 0 }]))).said
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
  const plain = await generate(tiny, exact, texts)
  const found = await generate(tiny, { ...exact, generatesOnly: true }, texts)
  expect(found.said).toEqual(plain.said)
  expect(found.said[0]).not.toEqual(first!)
  expect(found.bytesPerToken).toBeLessThan(1200)
})

test("samplers that may look at any token get all logits, also beside others", async () => {
  const texts = textsOf([...all, ...likely, all[0]!])
  const plain = await generate(tiny, exact, texts)
  for (const isTogether of [false, true]) {
    const found = await generate(tiny, { ...exact, generatesOnly: true }, texts, { isTogether })
    expect(found.said).toEqual(plain.said)
  }
})

test("guesses are checked by the same few", async () => {
  const speculation = { ngram: { lookupCount: 1, draftCount: 12 }, draft: { path: tiny } }
  const texts = textsOf(likely)
  const plain = await generate(tiny, exact, texts)
  for (const isTogether of [false, true]) {
    const plan = { ...exact, generatesOnly: true, speculation }
    const found = await generate(tiny, plan, texts, { isTogether })
    expect(found.said).toEqual(plain.said)
    expect(found.bytesPerToken).toBeLessThan(1500)
  }
})

test("a draft model on a server gives all logits where guesses must be likely", async () => {
  const texts = textsOf([{ temp: 0 }, { seed: 3 }])
  const plain = await generate(tiny, exact, texts)
  for (const isTogether of [false, true]) {
    const devices = [server.endpoint]
    const draft = { path: tiny, devices, leastProbability: 1e-3 }
    const plan = { ...exact, generatesOnly: true, speculation: { draft } }
    const found = await generate(tiny, plan, texts, { isTogether })
    expect(found.said).toEqual(plain.said)
    expect(found.guessCount).toBeGreaterThan(20)
  }
})

test("a server whose ggml cannot tell them sends all", async () => {
  const texts = textsOf(likely)
  const plain = await generate(tiny, exact, texts)
  const found = await generate(tiny, { ...exact, generatesOnly: true }, texts, { on: old })
  expect(found.said).toEqual(plain.said)
  expect(found.bytesPerToken).toBeGreaterThan(2000)
})

test("of other architectures as well; and what is evaluated comes whole", async () => {
  const wanted = /^(gemma3|mamba|qwen2moe|cogvlm)-/
  const models = (await ensureArchitectureModels()).filter(({ name }) => wanted.test(name))
  expect(models.length).toBeGreaterThan(3)
  for (const { path } of models) {
    const texts = textsOf([{ temp: 0 }, { seed: 3, topK: 5 }].map((o) => ({ ...o, maxTokens: 4 })))
    const plain = await generate(path, { contextSize: 256 }, texts)
    const found = await generate(path, { contextSize: 256, generatesOnly: true }, texts)
    expect([path, found.said]).toEqual([path, plain.said])
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
