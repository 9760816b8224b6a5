/**
 * Many at once: 32 streams, each with its own text, and clients that leave in the middle. `GGML_RPC_STREAMS_SECONDS=60` goes on for
 * a minute.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { readFileSync } from "node:fs"
import { Effect } from "effect"
import OpenAI from "openai"
import { ensureModel } from "../models/models.ts"
import { waitUntil } from "../peers/process.ts"
import { askJson, type StartedApi, startApi } from "./apiServer.ts"

const seconds = Number(process.env.GGML_RPC_STREAMS_SECONDS ?? 3)
setDefaultTimeout(60_000 + seconds * 2000)

const STREAM_COUNT = 32
const SLOT_COUNT = 8
const TOKEN_COUNT = 24

let api: StartedApi
let openai: OpenAI
beforeAll(async () => {
  api = await startApi(await ensureModel("tiny"), {
    plan: { slots: SLOT_COUNT, contextSize: 4096 },
  })
  openai = new OpenAI({ baseURL: `${api.url}/v1`, apiKey: "none", maxRetries: 0 })
})
afterAll(() => api?.stop())

const requestOf = (seed: number) => ({
  model: "tiny",
  // Ids, since the vocabulary is no language; each begins otherwise.
  prompt: [10 + seed, 3 + (seed % 7), 40 + seed],
  temperature: 0,
  max_tokens: TOKEN_COUNT,
  ignore_eos: true,
})

/** Logits of what is computed together are added up in another order, which may decide between tokens that are as good. */
const CLEAR_MARGIN = 0.01

interface Probability {
  readonly top_logprobs: ReadonlyArray<{ readonly logprob: number }>
}

/** What the model says when nobody else asks; undefined where chance would have a say in it. */
const textAlone = async (seed: number): Promise<string | undefined> => {
  const { body } = await askJson(`${api.url}/completion`, { ...requestOf(seed), n_probs: 2 })
  const isClear = (body.completion_probabilities as ReadonlyArray<Probability>).every(
    ({ top_logprobs: [best, second] }) => best!.logprob - second!.logprob > CLEAR_MARGIN,
  )
  return isClear ? body.content : undefined
}

const streamed = async (seed: number, signal?: AbortSignal): Promise<string> => {
  const request = { ...requestOf(seed), stream: true as const }
  const stream = await openai.completions.create(request, { signal })
  let text = ""
  for await (const { choices } of stream) text += choices[0]?.text ?? ""
  return text
}

/** One that leaves after a while, or before it has begun. */
const leaving = async (seed: number): Promise<void> => {
  const abort = new AbortController()
  const timer = setTimeout(() => abort.abort(), Math.random() * 40)
  await streamed(seed, abort.signal).catch((error: unknown) => {
    if (!abort.signal.aborted) throw error
  })
  clearTimeout(timer)
}

const isIdle = async (): Promise<boolean> => {
  const { slots, queuedCount } = await Effect.runPromise(api.model.slots)
  return queuedCount === 0 && slots.every(({ state }) => state === "idle")
}

const PAGE_MIB = 4096 / 2 ** 20
/** What a garbage collector may keep, in MiB: a thousand streams that were kept would be more. */
const SLACK_MIB = 48

/** Of this process, which is server and clients, and of the engine, in MiB. */
const memory = (): readonly [own: number, engine: number] => {
  Bun.gc(true)
  const residentOf = (pid: number | "self"): number =>
    Number(readFileSync(`/proc/${pid}/statm`, "utf8").split(" ")[1]) * PAGE_MIB
  return [residentOf("self"), residentOf(api.enginePid)]
}

test("each of 32 streams gets its own text, while as many clients come and go", async () => {
  const alone = new Map<number, string>()
  for (let seed = 0; alone.size < STREAM_COUNT; seed++) {
    const text = await textAlone(seed)
    if (text !== undefined) alone.set(seed, text)
  }
  const seeds = [...alone.keys()]
  expect(new Set(alone.values()).size).toBe(STREAM_COUNT)

  const round = async (): Promise<void> => {
    const stays = Promise.all(seeds.map((seed) => streamed(seed)))
    const leaves = Promise.all(seeds.map((seed) => leaving(seed)))
    expect(await stays).toEqual([...alone.values()])
    await leaves
  }
  // What is allocated once is not counted.
  for (let warmUp = 0; warmUp < 3; warmUp++) await round()
  const before = memory()
  const end = performance.now() + seconds * 1000
  let rounds = 0
  while (performance.now() < end) {
    await round()
    rounds += 1
  }
  expect(rounds).toBeGreaterThan(0)
  expect(await waitUntil(isIdle, 10_000)).toBe(true)
  await waitUntil(() => memory().every((now, index) => now < before[index]! + SLACK_MIB), 10_000)
  const after = memory()
  console.log(
    `${rounds} rounds of ${2 * STREAM_COUNT} streams; MiB ${before.map(Math.round)} before, ${after.map(Math.round)} after`,
  )
  for (const index of [0, 1] as const) expect(after[index]).toBeLessThan(before[index] + SLACK_MIB)
})

test("what was left is free for who comes next", async () => {
  const { body } = await askJson(`${api.url}/slots`)
  expect(body.length).toBe(SLOT_COUNT)
  expect(body.every(({ is_processing }: { is_processing: boolean }) => !is_processing)).toBe(true)
  expect((await streamed(0)).length).toBeGreaterThan(0)
})
