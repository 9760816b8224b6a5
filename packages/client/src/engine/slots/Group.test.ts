/** Slots of one context, on a context that computes nothing and keeps no cells. */
import { expect, test } from "bun:test"
import type { ModelContext, ModelInfo } from "@ggml-rpc/native/bindings/llama"
import type { Loaded } from "../Loaded.ts"
import type { Drafter } from "./drafting/Drafter.ts"
import { Speculation } from "./drafting/Speculation.ts"
import { Group, type GroupOptions } from "./Group.ts"
import { Slot } from "./Slot.ts"
import { Slots, type SlotsHost } from "./Slots.ts"
import type { Place, Task } from "./Task.ts"

const notes: Array<string> = []

const host: SlotsHost = {
  failIfLost() {},
  isCancelled: () => false,
  setRunning() {},
  flush() {},
  note: (text) => notes.push(text),
}

const info = {
  architecture: "llama",
  slidingWindow: 0,
  isRecurrent: false,
  isHybrid: false,
} as ModelInfo

interface FakeContextOptions {
  readonly contextSize?: number
  readonly batchSize?: number
  readonly ubatchSize?: number
  readonly outputCount?: number
}

/** Notes the sequences of each batch's tokens, and what was forgotten whole. */
const fakeContext = ({
  contextSize = 256,
  batchSize = 64,
  ubatchSize = 64,
  outputCount = Number.POSITIVE_INFINITY,
}: FakeContextOptions = {}) => {
  const batches: Array<ReadonlyArray<number>> = []
  const cleared: Array<number> = []
  const context = {
    ...{ contextSize, batchSize, ubatchSize, outputCount, canShift: true },
    wantCandidates() {},
    firstPosition: () => 0,
    copySequence() {},
    removeFrom(position: number, sequence: number) {
      if (position === 0) cleared.push(sequence)
      return true
    },
    decodeBatch(batch: { readonly sequences: Int32Array; readonly count: number }) {
      batches.push([...batch.sequences.subarray(0, batch.count)])
      return 0
    },
  } as unknown as ModelContext
  return { context, batches, cleared }
}

/** Generates token 1 again and again, until it has so many. */
class FakeTask implements Task {
  readonly tokens: Array<number>
  readonly outputs: "last" | "all"
  readonly candidateCount = 0
  readonly isWhole = false
  readonly reusesCache = false
  readonly slot: number
  readonly draftRoom: number
  failure: unknown
  beginCount = 0
  takenCount = 0
  readonly id: number
  readonly #most: number

  constructor(id: number, promptSize: number, most: number, slot = -1, outputs?: "all") {
    this.id = id
    this.tokens = new Array(promptSize).fill(1)
    this.#most = most
    this.slot = slot
    this.outputs = outputs ?? "last"
    this.draftRoom = outputs === "all" ? 0 : 8
  }

  begin(_: Place): boolean {
    this.beginCount++
    return false
  }

  take(_context: ModelContext, first: number, count: number): boolean {
    this.takenCount += count
    if (this.outputs === "all") return first + count === this.tokens.length
    if (this.takenCount === this.#most) return true
    this.tokens.push(1)
    return false
  }

  drafted(): void {}
  cancel(): void {}

  fail(error: unknown): void {
    this.failure = error
  }
}

const slotsOn = (contexts: ReadonlyArray<ModelContext>, slotCount: number, promptStepSize = 64) =>
  new Slots(
    {
      ...{ contexts, context: contexts[0]!, groupCount: contexts.length, path: "model" },
      model: { info },
      options: { promptStepSize },
    } as unknown as Loaded,
    slotCount,
    host,
  )

/** Steps until no text is at work; an endless loop is a failure. */
const finish = (slots: Slots, most = 500): void => {
  for (let step = 0; !slots.isIdle; step++) {
    if (step === most) throw new Error(`Texts are at work after ${most} steps.`)
    slots.step()
  }
}

const groupWith = (
  context: ModelContext,
  drafters: ReadonlyArray<Drafter>,
  options: Partial<GroupOptions> & Pick<GroupOptions, "slots">,
) => {
  let count = 0
  return new Group({
    ...{ context, architecture: "llama", slidingWindow: 0, path: "model", host },
    speculation: new Speculation(drafters, host),
    promptStepSize: 64,
    count: () => ++count,
    requeue() {},
    ...options,
  })
}

const drafter = (draft: Drafter["draft"]): Drafter => ({
  ...{ draft, firstDepth: 8, leastDepth: 1, mostDepth: 8 },
  release() {},
})

const guessAll = drafter((texts) => {
  for (const { draft, most } of texts) while (draft.length < most) draft.push(1)
})

test("what a batch had of a text that has ended takes no cells", () => {
  const { context, cleared } = fakeContext({ contextSize: 100 })
  const slots = slotsOn([context], 2)
  // The first ends with the batch that has 40 tokens of it, which stay for a text that begins so; the other has room beside them.
  slots.submit(new FakeTask(1, 40, 1, 0))
  finish(slots)
  cleared.length = 0
  const other = new FakeTask(2, 40, 5, 1)
  slots.submit(other)
  finish(slots)
  expect(other.takenCount).toBe(5)
  expect(cleared).toEqual([1])
})

test("a text that waits for its own slot keeps nobody from another one", () => {
  const { context } = fakeContext({ contextSize: 100 })
  const slots = slotsOn([context], 3)
  const long = new FakeTask(1, 60, 30, 0)
  const certain = new FakeTask(2, 50, 1, 1)
  const short = new FakeTask(3, 4, 1)
  slots.submit(long)
  slots.step()
  slots.submit(certain)
  slots.submit(short)
  for (let step = 0; step < 3; step++) slots.step()
  expect([certain.beginCount, short.takenCount]).toEqual([0, 1])
  finish(slots)
  expect([long.takenCount, certain.takenCount]).toEqual([30, 1])
})

test("all texts go on where there are more than a step, or a batch, has tokens", () => {
  for (const [stepSize, batchSize] of [
    [2, 64],
    [64, 3],
  ] as const) {
    const { context } = fakeContext({ batchSize })
    const slots = slotsOn([context], 8, stepSize)
    const tasks = Array.from({ length: 8 }, (_, id) => new FakeTask(id + 1, 2, 40))
    for (const task of tasks) slots.submit(task)
    for (let step = 0; step < 60; step++) slots.step()
    const counts = tasks.map(({ takenCount }) => takenCount)
    expect(Math.max(...counts) - Math.min(...counts)).toBeLessThan(10)
    finish(slots)
  }
})

test("a text whose tokens all have outputs ends where there is room for one beside the slots' own", () => {
  const { context } = fakeContext({ outputCount: 3 })
  const slots = slotsOn([context], 2)
  const all = new FakeTask(1, 5, 0, -1, "all")
  slots.submit(new FakeTask(2, 3, 20))
  slots.submit(all)
  finish(slots)
  expect(all.takenCount).toBe(5)
})

test("such a text waits while guesses take all outputs", () => {
  const { context, batches } = fakeContext({ outputCount: 6 })
  const slots = [0, 1].map((id) => new Slot(id, context, id, info))
  const group = groupWith(context, [guessAll], { slots })
  const all = new FakeTask(1, 5, 0, -1, "all")
  group.begin(slots[0]!, new FakeTask(2, 1, 20))
  group.start(true)
  group.finish()
  group.begin(slots[1]!, all)
  while (group.start(true)) group.finish()
  expect(batches.flat().filter((sequence) => sequence === 1)).toHaveLength(5)
  expect([all.takenCount, all.failure]).toEqual([5, undefined])
})

test("texts go on where guessing fails, without guesses, and that is told", () => {
  const { context, batches } = fakeContext()
  let asked = 0
  const failing = drafter(([text]) => {
    asked++
    text!.draft.push(1)
    throw new Error("no memory")
  })
  const slot = new Slot(0, context, 0, info)
  notes.length = 0
  const group = groupWith(context, [failing], { slots: [slot] })
  const task = new FakeTask(1, 3, 6)
  group.begin(slot, task)
  while (group.start(true)) group.finish()
  expect([task.failure, task.takenCount, asked]).toEqual([undefined, 6, 1])
  expect(notes).toEqual([
    "No more tokens are guessed, and texts go on one token at a time: no memory.",
  ])
  expect(batches.map(({ length }) => length)).toEqual([3, 1, 1, 1, 1, 1])
})

test("with a sliding window guesses are in the first micro-batch with the tokens that they follow", () => {
  const largest = (slidingWindow: number): number => {
    const { context, batches } = fakeContext({ ubatchSize: 8 })
    const slots = [0, 1].map((id) => new Slot(id, context, id, info))
    const group = groupWith(context, [guessAll], { slots, slidingWindow })
    for (const slot of slots) group.begin(slot, new FakeTask(slot.id + 1, 2, 30))
    while (group.start(true)) group.finish()
    return Math.max(...batches.map(({ length }) => length))
  }
  expect(largest(16)).toBe(8)
  expect(largest(0)).toBeGreaterThan(8)
})
