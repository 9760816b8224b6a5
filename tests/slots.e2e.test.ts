/**
 * Many texts at once on one model: each is what it is alone, whatever is computed beside it, and however it ends. With our
 * servers, random models and those of all architectures.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Cluster, GenerateStats } from "@ggml-rpc/client"
import { writeGguf } from "@ggml-rpc/gguf"
import { Effect, Fiber, Option, type Scope } from "effect"
import { ensureModel, randomModel, randomModels } from "./models/models.ts"
import { type ArchitectureModel, ensureArchitectureModels } from "./peers/models.ts"
import {
  type AnyClusterError,
  type OurServer,
  openCluster,
  run,
  startOurServer,
} from "./servers.ts"

setDefaultTimeout(120_000)

/** A third of the architectures will do in the normal run: for slots they differ by their memory, and each kind is there. */
const takesAll = process.env.GGML_RPC_ALL_ARCHITECTURES === "1"
/** Those that slots treat in a way of their own, or whose memory is of a rare kind. */
const withCare = ["plamo2", "cogvlm", "gemma", "mamba", "rwkv", "jamba", "lfm2", "deepseek", "t5"]

const stack = new AsyncDisposableStack()
const scratch = mkdtempSync(join(tmpdir(), "slots-"))
const servers: Array<OurServer> = []
let tiny: string
let demo: string
let architectures: ReadonlyArray<ArchitectureModel>

beforeAll(async () => {
  tiny = await ensureModel("tiny")
  demo = await ensureModel("demo")
  architectures = await ensureArchitectureModels()
  for (let index = 0; index < 2; index++) servers.push(stack.use(await startOurServer()))
}, 600_000)

afterAll(async () => {
  await stack.disposeAsync()
  rmSync(scratch, { recursive: true, force: true })
})

type Model = Cluster.ClusterModel

/** Work on a model that is loaded over both servers, or so many of them. */
const withModel = <A>(
  path: string,
  options: Cluster.PlanOptions,
  work: (model: Model) => Effect.Effect<A, AnyClusterError, Scope.Scope>,
  serverCount = 2,
): Promise<A> =>
  run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(
        servers.slice(0, serverCount).map(({ endpoint }) => endpoint),
      )
      const model = yield* cluster.load(yield* cluster.plan(path, { threads: 1, ...options }))
      return yield* work(model)
    }),
  )

interface Said {
  readonly ids: ReadonlyArray<number>
  readonly text: string
  /** Of the two most likely tokens at each place. */
  readonly top: ReadonlyArray<readonly [best: number, second: number]>
  readonly stats: GenerateStats
}

const say = (
  model: Model,
  prompt: string | ReadonlyArray<number>,
  options: Cluster.GenerateOptions = {},
): Effect.Effect<Said, AnyClusterError> =>
  Effect.suspend(() => {
    const ids: Array<number> = []
    const top: Array<readonly [number, number]> = []
    let text = ""
    const take = (token: Cluster.GeneratedToken): void => {
      text += token.text
      if (token.id < 0) return
      ids.push(token.id)
      const [best, second] = token.logprobs!.top
      top.push([best!.logprob, second!.logprob])
    }
    return Effect.map(
      model.generateEach(prompt, take, { temp: 0, topLogprobs: 2, ...options }),
      (stats) => ({ ids, text, top, stats }),
    )
  })

/** What the order of additions may change of a logarithm of a probability; a wrong token before changes all of it. */
const LOGPROB_TOLERANCE = 0.01

/** Greedy texts are alike: the same tokens with the same probabilities, up to where two were equally likely. */
const expectAlike = (
  found: ReadonlyArray<Said>,
  expected: ReadonlyArray<Said>,
  about = "",
): void => {
  expect(found).toHaveLength(expected.length)
  for (const [index, { ids, top }] of expected.entries()) {
    const other = found[index]!
    for (let at = 0; at < Math.max(ids.length, other.ids.length); at++) {
      const what = `${about} text ${index} token ${at}`
      expect(Math.abs(top[at]![0] - other.top[at]![0]), what).toBeLessThan(LOGPROB_TOLERANCE)
      if (ids[at] === other.ids[at]) continue
      expect(top[at]![0] - top[at]![1], what).toBeLessThan(LOGPROB_TOLERANCE)
      break
    }
  }
}

/** Prompts of made-up tokens, of different lengths and beginnings. */
const promptOf = (seed: number, length = 5 + ((seed * 7) % 40)): ReadonlyArray<number> =>
  Array.from(
    { length },
    (_, index) => 3 + ((seed * 131 + index * 37 + ((index * seed) % 11)) % 500),
  )

/** The error that an effect fails with. */
const errorOf = <A>(effect: Effect.Effect<A, AnyClusterError>): Effect.Effect<AnyClusterError> =>
  Effect.catchAll(Effect.flip(effect), (value) => Effect.dieMessage(`no error, but ${value}`))

const atOnce = { concurrency: "unbounded" } as const

describe("texts at once", () => {
  test("32 over 8 slots are what each is alone", async () => {
    const prompts = Array.from({ length: 32 }, (_, index) => promptOf(index))
    const lengthOf = (index: number): number => 10 + ((index * 13) % 50)
    const alone = await withModel(tiny, { contextSize: 1024 }, (model) =>
      Effect.forEach(prompts, (prompt, index) =>
        say(model, prompt, { maxTokens: lengthOf(index), cachePrompt: false }),
      ),
    )
    const together = await withModel(tiny, { contextSize: 1024, slots: 8 }, (model) =>
      Effect.forEach(
        prompts,
        (prompt, index) => say(model, prompt, { maxTokens: lengthOf(index) }),
        atOnce,
      ),
    )
    expectAlike(together, alone)
    expect(new Set(together.map(({ stats }) => stats.slot)).size).toBe(8)
  })

  test("words to the letter", async () => {
    const starts = ["Roses", "A", "Roses", "The", "I", "Once", "Roses", "You"]
    const generate = (slots: number) =>
      withModel(demo, { contextSize: 1024, slots }, (model) =>
        Effect.forEach(
          starts,
          (start) => Effect.map(say(model, start, { maxTokens: 60 }), ({ text }) => text),
          slots > 1 ? atOnce : {},
        ),
      )
    const [alone, together] = [await generate(1), await generate(8)]
    expect(together).toEqual(alone)
    expect(alone[0]!.length).toBeGreaterThan(100)
  })

  test("each with samplers of its own", async () => {
    const options: ReadonlyArray<Cluster.GenerateOptions> = [
      { temp: 0.9, seed: 7 },
      { temp: 0.9, seed: 8, repeatPenalty: 1.4 },
      { logitBias: [[40, 30]] },
      { temp: 1.5, seed: 9, topK: 3 },
    ]
    // What is sampled depends on the last bits: as few of them as can be differ.
    const plan = { contextSize: 512, typeK: "f32", typeV: "f32", flashAttention: "off" } as const
    const generate = (slots: number) =>
      withModel(tiny, { ...plan, slots }, (model) =>
        Effect.forEach(
          options,
          (option) => say(model, promptOf(5), { maxTokens: 12, cachePrompt: false, ...option }),
          slots > 1 ? atOnce : {},
        ),
      )
    const [alone, together] = [await generate(1), await generate(4)]
    expect(together.map(({ ids }) => ids)).toEqual(alone.map(({ ids }) => ids))
    expect(new Set(alone.map(({ ids }) => ids.join())).size).toBe(options.length)
  })

  test("of every architecture that generates, also when they begin alike, and with guesses", async () => {
    let count = 0
    let [draftedCount, acceptedCount] = [0, 0]
    const tried = architectures.filter(
      ({ name }, index) =>
        takesAll || index % 3 === 0 || withCare.some((it) => name.startsWith(it)),
    )
    for (const { path, name } of tried) {
      const [first, second] = [4, 5].map((seed) => promptOf(seed, 12 + seed).map((id) => id % 120))
      const prompts = [first!, [...first!, 5, 6, 7], [...first!.slice(0, 9), ...second!]]
      const work = (model: Model): Effect.Effect<void, AnyClusterError> =>
        Effect.gen(function* () {
          if (!model.info.hasDecoder || model.info.isDiffusion) return
          const options = { maxTokens: 2, cachePrompt: false } as const
          const alone = yield* Effect.forEach(prompts, (prompt) => say(model, prompt, options))
          const reusing = yield* Effect.forEach(prompts, (prompt) =>
            say(model, prompt, { maxTokens: 2 }),
          )
          expectAlike(reusing, alone, name)
          const together = yield* Effect.forEach(
            prompts,
            (prompt) => say(model, prompt, options),
            atOnce,
          )
          expectAlike(together, alone, name)
          count++
          if (model.plan.context.speculation === undefined) return
          const generate = (draftCount: number) =>
            Effect.forEach(
              prompts,
              (prompt) => say(model, prompt, { maxTokens: 10, cachePrompt: false, draftCount }),
              atOnce,
            )
          const [plain, guessed] = [yield* generate(0), yield* generate(6)]
          expectAlike(guessed, plain, name)
          for (const { stats } of guessed) {
            draftedCount += stats.draftedCount ?? 0
            acceptedCount += stats.acceptedCount ?? 0
          }
        })
      const options = { contextSize: 256, slots: 3 }
      const speculation = { ngram: { lookupCount: 1, draftCount: 6 } }
      try {
        await withModel(path, { ...options, speculation }, work, 1)
      } catch (error) {
        if (!`${error}`.includes("leave out --spec-type")) throw error
        await withModel(path, options, work, 1)
      }
    }
    expect(count).toBeGreaterThan(takesAll ? 110 : 45)
    // Right ones and wrong ones.
    expect(acceptedCount).toBeGreaterThan(takesAll ? 300 : 100)
    expect(draftedCount - acceptedCount).toBeGreaterThan(takesAll ? 300 : 100)
  }, 300_000)

  test("beside evaluations, whose logits stay the same", async () => {
    const tokens = promptOf(9, 300)
    await withModel(
      tiny,
      { contextSize: 1024, slots: 4, batchSize: 128, ubatchSize: 64 },
      (model) =>
        Effect.gen(function* () {
          const alone = yield* model.evaluate(tokens)
          const [beside] = yield* Effect.all(
            [
              model.evaluate(tokens),
              say(model, promptOf(1), { maxTokens: 30 }),
              say(model, promptOf(2), { maxTokens: 30 }),
            ],
            atOnce,
          )
          expect(beside.rowCount).toBe(300)
          const differences = beside.values.map((value, at) => Math.abs(value - alone.values[at]!))
          expect(Math.max(...differences)).toBeLessThan(0.05)
        }),
    )
  })
})

describe("guesses", () => {
  const speculation: Cluster.Speculation = { ngram: { lookupCount: 1, draftCount: 16 } }
  const repeating = "One two three, one two three, one two"

  /** The same texts without guesses, with them, and with them beside each other. */
  const threeWays = async (
    path: string,
    plan: Cluster.PlanOptions,
    texts: ReadonlyArray<
      readonly [prompt: string | ReadonlyArray<number>, options: Cluster.GenerateOptions]
    >,
  ): Promise<
    readonly [plain: ReadonlyArray<Said>, ...guessed: ReadonlyArray<ReadonlyArray<Said>>]
  > => {
    const generate = (draftCount: number, slots: number) =>
      withModel(path, { speculation, ...plan, slots }, (model) =>
        Effect.forEach(
          texts,
          ([prompt, options]) => say(model, prompt, { cachePrompt: false, draftCount, ...options }),
          slots > 1 ? atOnce : {},
        ),
      )
    return [await generate(0, 1), await generate(16, 1), await generate(16, texts.length)]
  }

  const countsOf = (texts: ReadonlyArray<Said>) =>
    texts.reduce(
      (sum, { stats: { draftedCount = 0, acceptedCount = 0, tokenCount } }) => ({
        drafted: sum.drafted + draftedCount,
        accepted: sum.accepted + acceptedCount,
        tokens: sum.tokens + tokenCount,
      }),
      { drafted: 0, accepted: 0, tokens: 0 },
    )

  test("change nothing of what samplers choose, by seed, grammar, bias and penalties", async () => {
    const options: ReadonlyArray<Cluster.GenerateOptions> = [
      { temp: 0.7, seed: 7 },
      { temp: 0.9, seed: 8, repeatPenalty: 1.4 },
      { logitBias: [[40, 30]] },
      { temp: 1.5, seed: 9, topK: 3, grammar: 'root ::= ("ab" | "a " | "b")*' },
      { mirostat: 2, seed: 4, temp: 0.8 },
      { stop: ["s"], maxTokens: 200 },
      {},
    ]
    // What is sampled depends on the last bits: as few of them as can be differ.
    const plan = { contextSize: 2048, typeK: "f32", typeV: "f32", flashAttention: "off" } as const
    const [plain, ...ways] = await threeWays(
      demo,
      plan,
      options.map((option) => [repeating, { maxTokens: 40, ...option }]),
    )
    const seen = ({ ids, text, stats }: Said) => ({
      ids,
      text,
      end: stats.stopReason,
      stop: stats.stopText,
    })
    for (const guessed of ways) {
      expect(guessed.map(seen)).toEqual(plain.map(seen))
      expectAlike(guessed, plain)
      const { drafted, accepted } = countsOf(guessed)
      expect(accepted).toBeGreaterThan(20)
      expect(drafted).toBeGreaterThan(accepted)
    }
    expect(countsOf(plain)).toMatchObject({ drafted: 0, accepted: 0 })
  })

  test("spare most steps of a text that repeats itself, up to the last token that was wanted", async () => {
    const [plain, ...ways] = await threeWays(tiny, { contextSize: 1024 }, [
      [
        Array.from({ length: 60 }, (_, index) => 10 + (index % 5)),
        { logitBias: [[11, 100]], maxTokens: 101 },
      ],
      [promptOf(4), { logitBias: [[12, 100]], maxTokens: 64 }],
    ])
    for (const guessed of ways) {
      expectAlike(guessed, plain)
      expect(guessed.map(({ stats }) => stats.tokenCount)).toEqual([101, 64])
      const { drafted, accepted, tokens } = countsOf(guessed)
      // A step gives one token and those that were guessed.
      expect(tokens - accepted).toBeLessThan(40)
      expect(drafted).toBeLessThan(tokens)
    }
  })

  test("fill a context to its last token, and shift it", async () => {
    const endless = { logitBias: [[12, 100]] } as const
    const [plain, ...ways] = await threeWays(tiny, { contextSize: 256 }, [
      [promptOf(4), { ...endless, maxTokens: 330, contextShift: true, keepTokens: 4 }],
    ])
    const [full, ...others] = await threeWays(tiny, { contextSize: 256 }, [[promptOf(4), endless]])
    expect(plain[0]!.stats.tokenCount).toBe(330)
    expect(full[0]!.stats.stopReason).toBe("context-full")
    for (const guessed of ways) expectAlike(guessed, plain)
    for (const guessed of others) {
      expectAlike(guessed, full)
      expect(guessed[0]!.stats).toMatchObject({
        stopReason: "context-full",
        tokenCount: full[0]!.stats.tokenCount,
      })
    }
  })

  test("leave nothing behind when a text is stopped, and give way where cells are short", async () => {
    const prompts = [1, 2, 3, 4].map((seed) => promptOf(seed, 70))
    const options = { maxTokens: 50, cachePrompt: false }
    await withModel(tiny, { contextSize: 256, slots: 4, speculation }, (model) =>
      Effect.gen(function* () {
        const alone = yield* Effect.forEach(prompts, (prompt) =>
          say(model, prompt, { ...options, draftCount: 0 }),
        )
        const running = yield* Effect.fork(say(model, promptOf(9), { maxTokens: -1 }))
        yield* waitForToken(model)
        yield* Fiber.interrupt(running)
        const together = yield* Effect.forEach(
          prompts,
          (prompt) => say(model, prompt, options),
          atOnce,
        )
        expectAlike(together, alone)
      }),
    )
  })

  test("come from a smaller model, on this host or on a server", async () => {
    const smaller = join(scratch, "smaller.gguf")
    writeGguf(smaller, await randomModel("smaller", { ...randomModels.tiny, layerCount: 3 }))
    const texts = [1, 2, 3].map((seed) => [promptOf(seed), { maxTokens: 40 }] as const)
    const generate = (path: string, more: Partial<Cluster.DraftModelOptions> = {}) =>
      threeWays(
        tiny,
        { contextSize: 512, speculation: { draft: { path, draftCount: 6, ...more } } },
        texts,
      )
    const [plain, ...same] = await generate(tiny, { devices: ["RPC1"] })
    for (const guessed of same) {
      expectAlike(guessed, plain)
      const { drafted, accepted } = countsOf(guessed)
      expect(accepted).toBeGreaterThan(80)
      expect(drafted - accepted).toBeLessThan(accepted / 4)
    }
    const [, ...other] = await generate(smaller, { leastCount: 2 })
    for (const guessed of other) {
      expectAlike(guessed, plain)
      const { drafted, accepted } = countsOf(guessed)
      expect(drafted).toBeGreaterThan(accepted)
      expect(accepted).toBeGreaterThan(5)
    }
  })

  test("of both kinds take turns; a smaller model has its place in the plan, and its own room", async () => {
    const draft = { path: tiny, draftCount: 4, devices: ["RPC0"] }
    const both = { ...speculation, draft }
    await withModel(tiny, { contextSize: 512, slots: 2, speculation: both }, (model) =>
      Effect.gen(function* () {
        const { plan, draftBreakdown } = model
        expect(plan.draft).toMatchObject({
          path: tiny,
          contextSize: 512,
          places: [servers[0]!.endpoint],
        })
        expect(draftBreakdown!.devices[0]!.contextBytes).toBe(plan.draft!.devices[0]!.contextBytes)
        expect(plan.draft!.devices[0]!.weightBytes).toBeGreaterThan(0)
        const alone = yield* say(model, promptOf(2, 300), { maxTokens: 60, draftCount: 0 })
        const others = [promptOf(2, 300), promptOf(5, 100)]
        const [guessed] = yield* Effect.forEach(
          others,
          (prompt) => say(model, prompt, { maxTokens: 60 }),
          atOnce,
        )
        expectAlike([guessed!], [alone])
        expect(guessed!.stats.acceptedCount).toBeGreaterThan(20)
      }),
    )
  })

  test("are refused where they could not be right, or not be taken back", async () => {
    const named = (start: string): string =>
      architectures.find(({ name }) => name.startsWith(start))!.path
    const cases: ReadonlyArray<
      readonly [path: string, speculation: Cluster.Speculation, reason: string]
    > = [
      [named("mamba"), speculation, "no token can be taken back from"],
      [named("llama"), { draft: { path: named("mamba") } }, "no token can be taken back from"],
      [
        named("llama"),
        { draft: { path: named("dream") } },
        "does not generate text token by token",
      ],
      [named("llama"), { draft: { path: join(scratch, "none.gguf") } }, "none.gguf"],
      [tiny, { draft: { path: demo } }, "so that it cannot guess"],
    ]
    for (const [path, given, reason] of cases) {
      const failure = withModel(path, { contextSize: 256, speculation: given }, () => Effect.void)
      await expect(failure).rejects.toThrow(reason)
    }
  })
})

test("an evaluation that no array holds is refused", async () => {
  await withModel(
    tiny,
    { contextSize: 1_100_000, ubatchSize: 32, batchSize: 32, typeK: "q4_0", typeV: "q4_0" },
    (model) =>
      Effect.gen(function* () {
        const tokens = Array<number>(1_050_000).fill(5)
        const error = yield* errorOf(model.evaluate(tokens))
        expect(error.message).toContain(
          "1050000 tokens give 2051 MiB of output, more than the 2048 MiB",
        )
      }),
  )
})

describe("the cache", () => {
  test("is used again for what a prompt has in common with the last one of a slot", async () => {
    await withModel(tiny, { contextSize: 1024, slots: 2 }, (model) =>
      Effect.gen(function* () {
        const prompt = promptOf(3, 100)
        const first = yield* say(model, prompt, { maxTokens: 10 })
        const again = yield* say(model, prompt, { maxTokens: 10 })
        // The last token is computed anew: it gives the logits.
        expect(again.stats).toMatchObject({ promptTokenCount: 100, cachedTokenCount: 99, slot: 0 })
        expectAlike([again], [first])
        const longer = [...prompt, ...again.ids.slice(0, 5), 7, 8]
        const goneOn = yield* say(model, longer, { maxTokens: 10 })
        expect(goneOn.stats).toMatchObject({ cachedTokenCount: 105, slot: 0 })
        const other = [...prompt.slice(0, 60), ...promptOf(4, 20)]
        const turned = yield* say(model, other, { maxTokens: 10 })
        expect(turned.stats).toMatchObject({ cachedTokenCount: 60, slot: 0 })
        const fresh = yield* Effect.forEach([longer, other], (tokens) =>
          say(model, tokens, { maxTokens: 10, cachePrompt: false }),
        )
        expect(fresh.map(({ stats }) => stats.cachedTokenCount)).toEqual([0, 0])
        expectAlike([goneOn, turned], fresh)
      }),
    )
  })

  test("of a slot at work is another's beginning, too", async () => {
    await withModel(tiny, { contextSize: 2048, slots: 4, groups: 1 }, (model) =>
      Effect.gen(function* () {
        const common = promptOf(3, 200)
        const texts = [1, 2, 3].map((seed) => [...common, ...promptOf(seed)])
        const running = yield* Effect.fork(say(model, common, { maxTokens: 400 }))
        yield* waitForToken(model)
        const branched = yield* Effect.forEach(
          texts,
          (tokens) => say(model, tokens, { maxTokens: 20 }),
          atOnce,
        )
        expect(branched.map(({ stats }) => stats.cachedTokenCount)).toEqual([200, 200, 200])
        yield* Fiber.join(running)
        const fresh = yield* Effect.forEach(texts, (tokens) =>
          say(model, tokens, { maxTokens: 20, cachePrompt: false }),
        )
        expectAlike(branched, fresh)
      }),
    )
  })

  test("of a slot is saved, forgotten, and restored on another split", async () => {
    const file = join(scratch, "slot.bin")
    const prompt = promptOf(8, 120)
    const [saved, goneOn] = await withModel(tiny, { contextSize: 512 }, (model) =>
      Effect.gen(function* () {
        yield* say(model, prompt, { maxTokens: 1 })
        const count = yield* model.saveSlot(0, file)
        const text = yield* say(model, prompt, { maxTokens: 20 })
        expect(yield* model.eraseSlot(0)).toBeGreaterThan(120)
        expect((yield* model.slots).slots).toEqual([{ slot: 0, state: "idle", tokenCount: 0 }])
        return [count, text] as const
      }),
    )
    expect(saved).toBe(120)
    await withModel(
      tiny,
      { contextSize: 1024, slots: 3 },
      (model) =>
        Effect.gen(function* () {
          expect(yield* model.restoreSlot(1, file)).toBe(120)
          const text = yield* say(model, prompt, { maxTokens: 20 })
          expect(text.stats).toMatchObject({ slot: 1, cachedTokenCount: 119 })
          expectAlike([text], [goneOn])
        }),
      1,
    )
  })

  test("is not filled from a file that is none of this model's", async () => {
    const file = join(scratch, "no-slot.bin")
    await withModel(tiny, { contextSize: 512 }, (model) =>
      Effect.gen(function* () {
        for (const bytes of ["", "no slot", "ggsq".padEnd(4000, "x")]) {
          writeFileSync(file, bytes)
          const error = yield* errorOf(model.restoreSlot(0, file))
          expect(error).toMatchObject({ _tag: "ModelError", during: "slot" })
          expect(error.message).toContain(`${file} cannot be restored`)
        }
        const nowhere = yield* errorOf(model.saveSlot(0, join(scratch, "no", "folder")))
        expect(nowhere.message).toContain("cannot be saved")
        const none = yield* errorOf(model.eraseSlot(1))
        expect(none.message).toContain("there is no slot 1; there are 1")
        yield* say(model, promptOf(1), { maxTokens: 2 })
      }),
    )
  })
})

/** Until some text has its first token. */
const waitForToken = (model: Model): Effect.Effect<void, AnyClusterError> =>
  Effect.repeat(model.slots, {
    until: ({ slots }) => slots.some(({ state }) => state === "generating"),
  })

describe("a full context", () => {
  test("lets texts wait, and takes the slot of the youngest", async () => {
    const prompts = Array.from({ length: 6 }, (_, index) => promptOf(index, 60))
    const maxTokens = 120
    const alone = await withModel(tiny, { contextSize: 512 }, (model) =>
      Effect.forEach(prompts, (prompt) => say(model, prompt, { maxTokens, cachePrompt: false })),
    )
    // Six times 180 tokens, where 512 have room.
    const together = await withModel(tiny, { contextSize: 512, slots: 6 }, (model) =>
      Effect.forEach(prompts, (prompt) => say(model, prompt, { maxTokens }), atOnce),
    )
    expectAlike(together, alone)
    expect(together.map(({ ids }) => ids.length)).toEqual(prompts.map(() => maxTokens))
  })

  test("ends a text, or makes it forget what is old", async () => {
    await withModel(tiny, { contextSize: 256 }, (model) =>
      Effect.gen(function* () {
        const prompt = promptOf(2, 200)
        const ended = yield* say(model, prompt, { ignoreEos: true })
        expect(ended.stats.stopReason).toBe("context-full")
        expect(ended.ids).toHaveLength(57)
        const shifted = yield* say(model, prompt, {
          ...{ ignoreEos: true, contextShift: true, keepTokens: 10, maxTokens: 400 },
        })
        expect(shifted.stats.stopReason).toBe("token-limit")
        expect(shifted.ids).toHaveLength(400)
        // The last one was chosen after the first shift.
        const until = ({ ids, ...said }: Said): Said => ({ ...said, ids: ids.slice(0, 56) })
        expectAlike([until(shifted)], [until(ended)])
      }),
    )
  })
})

describe("a text that nobody wants any more", () => {
  test("frees its slot, also before it had one", async () => {
    await withModel(tiny, { contextSize: 2048, slots: 2 }, (model) =>
      Effect.gen(function* () {
        const long = { maxTokens: 1500, ignoreEos: true }
        const kept = yield* Effect.fork(say(model, promptOf(1), { ...long, maxTokens: 300 }))
        const left = yield* Effect.fork(say(model, promptOf(2), long))
        yield* waitForToken(model)
        const queued = yield* Effect.fork(say(model, promptOf(3), long))
        yield* Effect.repeat(model.slots, { until: ({ queuedCount }) => queuedCount === 1 })
        yield* Fiber.interruptAll([left, queued])
        yield* Effect.repeat(model.slots, {
          until: ({ slots, queuedCount }) =>
            queuedCount === 0 && slots.filter(({ state }) => state === "idle").length >= 1,
        })
        const next = yield* say(model, promptOf(4), { maxTokens: 20, cachePrompt: false })
        const all = [yield* Fiber.join(kept), next]
        const fresh = yield* Effect.forEach([1, 4], (seed) =>
          say(model, promptOf(seed), {
            ...{ maxTokens: seed === 1 ? 300 : 20, ignoreEos: seed === 1, cachePrompt: false },
          }),
        )
        expectAlike(all, fresh)
      }),
    )
  })

  test("among 32 of which half are", async () => {
    await withModel(tiny, { contextSize: 2048, slots: 8 }, (model) =>
      Effect.gen(function* () {
        const seeds = Array.from({ length: 32 }, (_, index) => index)
        const said = yield* Effect.forEach(
          seeds,
          (seed) => {
            const whole = say(model, promptOf(seed), { maxTokens: 60 })
            const patienceMs = seed % 2 === 0 ? 60_000 : 5 + ((seed * 29) % 300)
            return Effect.timeoutOption(whole, patienceMs)
          },
          atOnce,
        )
        const even = said.filter((_, seed) => seed % 2 === 0).map(Option.getOrThrow)
        const fresh = yield* Effect.forEach(
          seeds.filter((seed) => seed % 2 === 0),
          (seed) => say(model, promptOf(seed), { maxTokens: 60, cachePrompt: false }),
        )
        expectAlike(even, fresh)
        const { slots, queuedCount } = yield* model.slots
        expect([slots.map(({ state }) => state), queuedCount]).toEqual([Array(8).fill("idle"), 0])
      }),
    )
  })

  test("does not have others wait for one that takes long", async () => {
    await withModel(tiny, { contextSize: 8192, slots: 2 }, (model) =>
      Effect.gen(function* () {
        const long = { maxTokens: 7000, ignoreEos: true }
        const running = yield* Effect.fork(say(model, promptOf(1), long))
        yield* waitForToken(model)
        // More than there are places for cancels.
        yield* Effect.forEach(Array(1500).fill("a"), (text) => model.tokenize(text), atOnce)
        const { ids } = yield* say(model, promptOf(2), { maxTokens: 3 })
        expect(ids).toHaveLength(3)
        expect((yield* model.slots).slots[0]!.state).toBe("generating")
        yield* Fiber.interrupt(running)
      }),
    )
  })

  test("also an evaluation", async () => {
    await withModel(tiny, { contextSize: 4096, batchSize: 32, ubatchSize: 32 }, (model) =>
      Effect.gen(function* () {
        const fiber = yield* Effect.fork(model.evaluate(promptOf(1, 4000)))
        yield* Effect.repeat(model.slots, { until: ({ slots }) => slots[0]!.tokenCount > 0 })
        yield* Fiber.interrupt(fiber)
        yield* say(model, promptOf(1), { maxTokens: 2, cachePrompt: false })
        const { tokenCount } = (yield* model.slots).slots[0]!
        expect(tokenCount).toBeLessThan(100)
      }),
    )
  })
})

describe("what is given out", () => {
  test("ends before a stop text, wherever tokens begin and end", async () => {
    await withModel(demo, { contextSize: 512, slots: 4 }, (model) =>
      Effect.gen(function* () {
        const { text: whole, ids } = yield* say(model, "Roses", { maxTokens: 40 })
        for (let from = 3; from < whole.length - 12; from += 7) {
          const stop = whole.slice(from, from + 9)
          const { text, stats } = yield* say(model, "Roses", {
            ...{ maxTokens: 40, stop: ["nowhere in it", stop, ""] },
          })
          expect(text).toBe(whole.slice(0, whole.indexOf(stop)))
          expect(stats).toMatchObject({ stopReason: "stop-text", stopText: stop })
        }
        // What only looks like the beginning of one is given out in the end.
        const almost = `${whole.slice(-5)}?`
        const { text } = yield* say(model, "Roses", { maxTokens: ids.length, stop: [almost] })
        expect(text).toBe(whole)
      }),
    )
  })

  test("has the probabilities that the logits give", async () => {
    await withModel(tiny, { contextSize: 512 }, (model) =>
      Effect.gen(function* () {
        const prompt = promptOf(6)
        const given: Array<Cluster.GeneratedToken> = []
        yield* model.generateEach(prompt, (token) => given.push(token), {
          ...{ temp: 1, seed: 5, maxTokens: 4, topLogprobs: 5 },
        })
        const tokens = [...prompt, ...given.map(({ id }) => id)]
        const { values, columnCount } = yield* model.evaluate(tokens)
        for (const [index, { id, logprobs }] of given.entries()) {
          const at = (prompt.length - 1 + index) * columnCount
          const row = values.subarray(at, at + columnCount)
          const whole = Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0))
          expect(logprobs!.chosen.id).toBe(id)
          expect(logprobs!.chosen.logprob).toBeCloseTo(row[id]! - whole, 1)
          const best = [...row.keys()].sort((a, b) => row[b]! - row[a]!).slice(0, 3)
          expect(logprobs!.top).toHaveLength(5)
          expect(logprobs!.top[0]!.logprob).toBeCloseTo(row[best[0]!]! - whole, 1)
          expect(logprobs!.top.map(({ logprob }) => logprob)).toEqual(
            logprobs!.top.map(({ logprob }) => logprob).toSorted((a, b) => b - a),
          )
        }
      }),
    )
  })

  test("is an embedding of each text, the same alone and among others", async () => {
    const embedding = architectures.find(({ name }) => name === "llama-dense")!.path
    const texts = Array.from({ length: 12 }, (_, seed) => promptOf(seed).map((id) => id % 120))
    const plan = { contextSize: 512, embeddings: true, pooling: "mean" } as const
    const [alone, together] = await withModel(embedding, { ...plan, slots: 4 }, (model) =>
      Effect.gen(function* () {
        const error = yield* errorOf(say(model, [1, 2]))
        expect(error.message).toContain("it puts out embeddings")
        return [
          yield* Effect.forEach(texts, model.embed),
          yield* Effect.forEach(texts, model.embed, atOnce),
        ] as const
      }),
    )
    for (const [index, values] of alone.entries()) {
      const differences = values.map((value, at) => Math.abs(value - together[index]![at]!))
      expect(Math.max(...differences)).toBeLessThan(1e-2)
      expect(Math.max(...values.map(Math.abs))).toBeGreaterThan(0.01)
    }
  })
})
