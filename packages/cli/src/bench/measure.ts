/** Runs a test of `bench` on a loaded model, by the slots of the engine that texts of users go through. */
import type { Cluster, ClusterError, GenerateStats, LinkTraffic } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { BenchTestError } from "../errors.ts"
import { type BenchTest, nameOfTest } from "./cases.ts"

export interface MeasureOptions {
  readonly repetitions: number
  /** Runs it once before. */
  readonly warmup: boolean
  readonly delayMs: number
}

export interface Measured {
  /** One a repetition. */
  readonly samplesMs: ReadonlyArray<number>
  /** What crossed each link in all of them. */
  readonly links: ReadonlyArray<LinkTraffic>
}

export const measureTest = (
  cluster: Cluster.Cluster,
  model: Cluster.ClusterModel,
  test: BenchTest,
  { repetitions, warmup, delayMs }: MeasureOptions,
): Effect.Effect<Measured, BenchTestError | ClusterError> =>
  Effect.gen(function* () {
    yield* Effect.sleep(delayMs)
    // llama-bench's warm-up: the prompt, and one token.
    if (warmup) {
      yield* fillContexts(model, test)
      yield* timed(model, { ...test, textCount: Math.min(1, test.textCount) }, 0)
    }
    const samplesMs: Array<number> = []
    let links: ReadonlyArray<LinkTraffic> = []
    for (let repetition = 1; repetition <= repetitions; repetition++) {
      yield* fillContexts(model, test)
      const before = yield* cluster.traffic
      samplesMs.push(yield* timed(model, test, repetition))
      links = sumOf(links, differenceOf(before, yield* cluster.traffic))
    }
    return { samplesMs, links }
  })

/** Puts the tokens that are to be in the context before there; what a slot has of them already stays. */
const fillContexts = (model: Cluster.ClusterModel, { depth, parallel }: BenchTest) =>
  depth === 0
    ? Effect.void
    : Effect.forEach(
        Array.from({ length: parallel }, (_, slot) => slot),
        (slot) =>
          model.generateEach(depthTokens(model, depth, slot), () => {}, {
            ...{ maxTokens: 0, temp: 0, slot },
          }),
        { concurrency: "unbounded", discard: true },
      )

/** Milliseconds that the test takes. */
const timed = (model: Cluster.ClusterModel, test: BenchTest, repetition: number) =>
  Effect.gen(function* () {
    const { depth, parallel, textCount, promptCount } = test
    const texts = Array.from({ length: parallel }, (_, slot) => ({
      slot,
      // No two have anything in common, nor two repetitions.
      tokens: [
        ...depthTokens(model, depth, slot),
        ...randomTokens(
          model,
          Math.max(1, promptCount),
          (repetition + 1) * MOST_SLOTS + slot,
          depth === 0,
        ),
      ],
    }))
    const started = performance.now()
    const stats = yield* Effect.forEach(
      texts,
      ({ slot, tokens }) =>
        model.generateEach(tokens, () => {}, {
          // Each of the tokens that follow a prompt is computed: the last one gives another, as llama-bench has it.
          maxTokens: promptCount > 0 && textCount > 0 ? textCount + 1 : textCount,
          temp: 0,
          ignoreEos: true,
          cachePrompt: depth > 0,
          slot,
        }),
      { concurrency: "unbounded" },
    )
    const tookMs = performance.now() - started
    yield* check(model, test, stats)
    // One text's time is the engine's own, without the way there and back.
    return parallel === 1 ? stats[0]!.promptMs + stats[0]!.generateMs : tookMs
  })

/** A text that ended early, or whose context was not there, was another test. */
const check = (
  { plan: { path } }: Cluster.ClusterModel,
  test: BenchTest,
  stats: ReadonlyArray<GenerateStats>,
): Effect.Effect<void, BenchTestError> => {
  const early = stats.find(({ stopReason }) => stopReason !== "token-limit")
  const other = stats.find(({ cachedTokenCount }) => cachedTokenCount !== test.depth)
  const reason =
    early !== undefined
      ? `a text ended after ${early.tokenCount} tokens (${early.stopReason})`
      : other !== undefined
        ? `${other.cachedTokenCount} tokens were in the context before, not ${test.depth}`
        : undefined
  return reason === undefined
    ? Effect.void
    : Effect.fail(new BenchTestError({ path, test: nameOfTest(test), reason }))
}

const MOST_SLOTS = 256

const depthTokens = (
  model: Cluster.ClusterModel,
  depth: number,
  slot: number,
): ReadonlyArray<number> => (depth === 0 ? [] : randomTokens(model, depth, slot, true))

/** As llama-bench's: any of the vocabulary, at a text's beginning behind the model's mark. The same in every run. */
const randomTokens = (
  { info }: Cluster.ClusterModel,
  count: number,
  seed: number,
  isBeginning: boolean,
): ReadonlyArray<number> => {
  let state = Math.imul(seed + 1, 0x9e37_79b1) >>> 0
  return Array.from({ length: count }, (_, index) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return index === 0 && isBeginning && info.addsBeginToken && info.beginToken >= 0
      ? info.beginToken
      : Math.floor((state / 2 ** 32) * info.vocabSize)
  })
}

const differenceOf = (
  before: ReadonlyArray<LinkTraffic>,
  after: ReadonlyArray<LinkTraffic>,
): ReadonlyArray<LinkTraffic> =>
  after.map((link, index) => combined(link, before[index]!, (a, b) => a - b))

const sumOf = (
  links: ReadonlyArray<LinkTraffic>,
  more: ReadonlyArray<LinkTraffic>,
): ReadonlyArray<LinkTraffic> =>
  links.length === 0
    ? more
    : links.map((link, index) => combined(link, more[index]!, (a, b) => a + b))

const combined = (
  one: LinkTraffic,
  other: LinkTraffic,
  by: (a: number, b: number) => number,
): LinkTraffic => ({
  endpoint: one.endpoint,
  sentBytes: by(one.sentBytes, other.sentBytes),
  receivedBytes: by(one.receivedBytes, other.receivedBytes),
  writeCount: by(one.writeCount, other.writeCount),
  waitCount: by(one.waitCount, other.waitCount),
})
