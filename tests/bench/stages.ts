/**
 * How many servers of one model compute at the same time, in rounds instead of seconds (see tests/rounds.ts and
 * docs/performance.md): over our servers, then over llama.cpp's.
 */
import type { Cluster } from "@ggml-rpc/client"
import { Effect } from "effect"
import { ensureModel } from "../models/models.ts"
import { ensurePeers } from "../peers/peers.ts"
import { type ServerProcess, startServer } from "../peers/process.ts"
import { startRounds } from "../rounds.ts"
import { openCluster, run, startOurServer } from "../servers.ts"
import { promptOf } from "./workloads.ts"

const TEXT_TOKENS = 48
const PROMPT_TOKENS = 2048
const VOCABULARY = 400

const path = await ensureModel("tiny")

const startUpstreams = async (): Promise<ServerProcess> => {
  const { "rpc-server": program } = await ensurePeers(["rpc-server"])
  return startServer((port) => [program, "-p", String(port), "-t", "1"])
}

/** Rounds that some work takes. */
const counted = (rounds: () => number, work: Effect.Effect<unknown, unknown>) =>
  Effect.suspend(() => {
    const before = rounds()
    return Effect.map(work, () => rounds() - before)
  })

const generate = (model: Cluster.ClusterModel, tokens: readonly number[], maxTokens: number) =>
  model.generateEach(tokens, () => {}, {
    ...{ temp: 0, ignoreEos: true, cachePrompt: false, maxTokens },
  })

const measure = async (title: string, ports: readonly number[]): Promise<void> => {
  using doors = startRounds(ports)
  const { endpoints, rounds } = doors
  const count = ports.length
  await run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpoints)
      const options = { threads: 1, contextSize: PROMPT_TOKENS + 256, slots: count }
      const plan = yield* cluster.plan(path, options)
      const model = yield* cluster.load(plan)
      const texts = Array.from({ length: count }, (_, seed) =>
        generate(model, [1, 10 + seed], TEXT_TOKENS),
      )
      const ofTexts = yield* counted(rounds, Effect.all(texts, { concurrency: "unbounded" }))
      const prompt = promptOf(PROMPT_TOKENS, VOCABULARY)
      const ofPrompt = yield* counted(rounds, generate(model, prompt, 1))
      // Of one server a token of each text, and a micro-batch, is a round of all layers.
      const textGain = (count * TEXT_TOKENS) / (ofTexts / count)
      const promptGain = PROMPT_TOKENS / plan.context.ubatchSize / (ofPrompt / count)
      console.log(
        `${title}, ${count} servers: ${TEXT_TOKENS} tokens of ${count} texts in ${ofTexts} rounds, ${textGain.toFixed(2)} x one server; a prompt of ${PROMPT_TOKENS} in ${ofPrompt}, ${promptGain.toFixed(2)} x`,
      )
    }).pipe(Effect.orDie),
  )
}

for (const [title, start] of [
  ["ours", startOurServer],
  ["llama.cpp's", startUpstreams],
] as const) {
  await using stack = new AsyncDisposableStack()
  const ports: number[] = []
  while (ports.length < 4) ports.push(stack.use(await start()).port)
  for (const count of [2, 3, 4]) await measure(title, ports.slice(0, count))
}
