/**
 * What guesses are worth over a slow link: tokens of the demo model on one server behind a relay, with and without guesses, in turns.
 * `bun tests/bench/speculation.ts [milliseconds each way …]`, 0, 1 and 10 where none are given.
 */
import type { Cluster } from "@ggml-rpc/client"
import { Effect } from "effect"
import { ensureModel } from "../models/models.ts"
import { startNetwork } from "../network.ts"
import { openCluster, run, startOurServer } from "../servers.ts"
import { median } from "./statistics.ts"

const ROUNDS = 5
const TOKENS = 128

const demo = await ensureModel("demo")

/** The text again behind itself, or new. */
interface Case {
  readonly name: string
  readonly isRepeated: boolean
  readonly speculation: Cluster.Speculation
}

const ngram = { lookupCount: 12, draftCount: 48 }
const cases: ReadonlyArray<Case> = [
  { name: "n-grams, a text again", isRepeated: true, speculation: { ngram } },
  { name: "n-grams, a new text", isRepeated: false, speculation: { ngram } },
  {
    name: "a draft model that is always right, 3 tokens",
    isRepeated: false,
    speculation: { draft: { path: demo, draftCount: 3 } },
  },
  {
    name: "the same, 8 tokens",
    isRepeated: false,
    speculation: { draft: { path: demo, draftCount: 8 } },
  },
]

const measure = ({ name, isRepeated, speculation }: Case, endpoint: string) =>
  Effect.gen(function* () {
    const cluster = yield* openCluster([endpoint])
    const options = { contextSize: 1024, threads: 1, generatesOnly: true, speculation }
    const model = yield* cluster.load(yield* cluster.plan(demo, options))
    const begin = yield* model.tokenize("Roses are red")
    const generate = (prompt: ReadonlyArray<number>, draftCount: number) => {
      const ids: Array<number> = []
      const take = ({ id }: Cluster.GeneratedToken): void => {
        if (id >= 0) ids.push(id)
      }
      const all = { maxTokens: TOKENS, temp: 0, cachePrompt: false, draftCount }
      return Effect.map(model.generateEach(prompt, take, all), (stats) => ({ ids, stats }))
    }
    const first = yield* generate(begin, 0)
    const prompt = isRepeated ? [...begin, ...first.ids, ...begin.slice(1)] : begin
    const plain: Array<number> = []
    const guessed: Array<number> = []
    for (let round = 0; round < ROUNDS; round++) {
      const without = yield* generate(prompt, 0)
      const guessing = yield* generate(prompt, ngram.draftCount)
      if (without.ids.join() !== guessing.ids.join()) throw new Error(`${name}: another text`)
      plain.push(without.stats.generateMs / TOKENS)
      guessed.push(guessing.stats.generateMs / TOKENS)
    }
    const [slow, fast] = [median(plain), median(guessed)]
    console.log(
      `  ${name}: ${slow.toFixed(2)} ms a token, ${fast.toFixed(2)} with guesses, ${(slow / fast).toFixed(2)}x`,
    )
  })

await using server = await startOurServer()
const given = process.argv.slice(2).map(Number)
for (const delayMs of given.length > 0 ? given : [0, 1, 10]) {
  using network = startNetwork(server.port, delayMs === 0 ? {} : { delayMs })
  console.log(`${delayMs} ms each way`)
  for (const each of cases) await run(measure(each, network.endpoint))
}
