/**
 * Our side of a benchmark's client: what tests/peers/upstream-client.cpp does, over the Cluster API, and
 * the same options and JSON where both have them.
 *
 * --rpc HOST:PORT,...  -m MODEL  --tokens IDS  -n N  -t N  -c N  -ub N  -ts A,B  --repeat N  --turns
 */
import { readSync, writeSync } from "node:fs"
import { parseArgs } from "node:util"
import { Cluster, parseEndpoints } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"

const { values } = parseArgs({
  args: Bun.argv.slice(2).map((arg) => (/^-[a-z]{2,}$/.test(arg) ? `-${arg}` : arg)),
  options: {
    rpc: { type: "string" },
    model: { type: "string", short: "m" },
    tokens: { type: "string" },
    predict: { type: "string", short: "n", default: "0" },
    threads: { type: "string", short: "t", default: "1" },
    context: { type: "string", short: "c" },
    ub: { type: "string", default: "512" },
    ts: { type: "string" },
    repeat: { type: "string", default: "1" },
    turns: { type: "boolean", default: false },
  },
})

const numbers = (list: string): number[] => list.split(",").map(Number)

/** A line from stdin, of one character. Nothing else is to run here meanwhile. */
const waitForTurn = (): void => {
  writeSync(2, "turn\n")
  readSync(0, new Uint8Array(1))
}

const program = Effect.gen(function* () {
  const started = performance.now()
  const endpoints = Either.getOrThrow(parseEndpoints(values.rpc ?? ""))
  const cluster = yield* Cluster.open({ endpoints, localDevices: [] })
  const opened = performance.now()
  const plan = yield* cluster.plan(values.model ?? "", {
    threads: Number(values.threads),
    contextSize: Number(values.context),
    ubatchSize: Number(values.ub),
    ...(values.ts === undefined ? {} : { tensorSplit: numbers(values.ts) }),
  })
  const planned = performance.now()
  const model = yield* cluster.load(plan)
  const loaded = performance.now()
  const readyEpochMs = Date.now()

  const prompt = numbers(values.tokens ?? "1")
  const predict = Number(values.predict)
  const generate = (tokens: readonly number[], maxTokens: number) =>
    Effect.suspend(() => {
      const ids: number[] = []
      return Effect.map(
        model.generateEach(
          tokens,
          ({ id }) => {
            if (id >= 0) ids.push(id)
          },
          { maxTokens, temp: 0, ignoreEos: true, cachePrompt: false },
        ),
        ({ promptMs, generateMs }) => ({ tokens: ids, promptMs, generateMs }),
      )
    })

  // As upstream-client: one untimed token.
  yield* generate(prompt.slice(0, 1), 1)
  const runs: Array<Effect.Effect.Success<ReturnType<typeof generate>>> = []
  for (let i = 0; i < Number(values.repeat); i++) {
    if (values.turns) waitForTurn()
    runs.push(yield* generate(prompt, predict))
  }
  const { breakdown, stats } = model
  return {
    openMs: opened - started,
    planMs: planned - opened,
    loadMs: loaded - planned,
    readyEpochMs,
    cachedBytes: stats.cachedWeightBytes,
    layers: plan.devices.map((device) => device.unitCount),
    breakdown,
    runs,
  }
})

console.log(JSON.stringify(await Effect.runPromise(Effect.scoped(program))))
