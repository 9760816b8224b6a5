/** Models with an encoder: embeddings, or logits of a decoder behind it, as on one machine. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Cluster, ClusterError } from "@ggml-rpc/client"
import { Effect, Stream } from "effect"
import { type EncoderModelName, writeEncoderModels } from "./models/encoders.ts"
import type { ServerProcess } from "./peers/process.ts"
import { failureOf, openCluster, run, startOurServer } from "./servers.ts"

setDefaultTimeout(60_000)

const folder = mkdtempSync(join(tmpdir(), "encoders-"))
const stack = new AsyncDisposableStack()
const servers: Array<ServerProcess> = []
let paths: ReturnType<typeof writeEncoderModels>

beforeAll(async () => {
  paths = writeEncoderModels(folder)
  for (let index = 0; index < 2; index++) servers.push(stack.use(await startOurServer()))
})

afterAll(async () => {
  await stack.disposeAsync()
  rmSync(folder, { recursive: true, force: true })
})

const tokens = [5, 10, 20, 300, 7, 8, 310, 42]

const evaluate = (endpoints: readonly string[], path: string) =>
  run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpoints)
      const plan = yield* cluster.plan(path, { threads: 1 })
      const model = yield* cluster.load(plan)
      return yield* model.evaluate(tokens)
    }),
  )

const spread = (values: Float32Array): number => Math.max(...values) - Math.min(...values)

test.each([
  ["bert", "embeddings", 64],
  ["t5", "logits", 320],
  ["t5encoder", "embeddings", 64],
  ["llama-embed", "embeddings", 64],
  ["gemma-embedding", "embeddings", 64],
] as const)("%s puts out the same %s over two servers", async (name, kind, columnCount) => {
  const local = await evaluate([], paths[name])
  const remote = await evaluate(
    servers.map(({ endpoint }) => endpoint),
    paths[name],
  )
  expect(remote).toMatchObject({ kind, rowCount: tokens.length, columnCount })
  expect(local.kind).toBe(kind)
  // Rows that differ: a model that ignored its input would agree with itself, too.
  expect(spread(local.values)).toBeGreaterThan(0.1)
  expect(local.values.subarray(0, columnCount)).not.toEqual(
    local.values.subarray(columnCount, 2 * columnCount),
  )
  expect(remote.values).toEqual(local.values)
})

describe("what such models cannot do is said", () => {
  const attempt = <A>(
    name: EncoderModelName,
    options: Cluster.PlanOptions,
    use: (model: Cluster.ClusterModel) => Effect.Effect<A, ClusterError>,
  ) =>
    failureOf(
      Effect.gen(function* () {
        const cluster = yield* openCluster([])
        const plan = yield* cluster.plan(paths[name], { threads: 1, ...options })
        return yield* use(yield* cluster.load(plan))
      }),
    )
  const generate = (model: Cluster.ClusterModel) =>
    Stream.runDrain(model.generate([5, 6], { maxTokens: 2 }))

  test("an embedding model generates no text", async () => {
    for (const name of ["bert", "llama-embed", "t5encoder"] as const) {
      const error = await attempt(name, {}, generate)
      expect(error._tag).toBe("ModelError")
      expect(error.message).toContain("it puts out embeddings, so it cannot generate text")
    }
  })

  test("more tokens than its positions", async () => {
    const many = Array.from({ length: 129 }, (_, index) => index)
    const error = await attempt("bert", {}, (model) => model.evaluate(many))
    expect(error._tag).toBe("ModelError")
    expect(error.message).toContain("129 tokens do not fit its context of 128")
  })

  test("more tokens than one step takes", async () => {
    for (const name of ["bert", "t5", "llama-embed"] as const) {
      const error = await attempt(name, { ubatchSize: 32 }, (model) =>
        model.evaluate(Array.from({ length: 33 }, (_, index) => index)),
      )
      expect(error._tag).toBe("ModelError")
      expect(error.message).toContain(
        "looks at all tokens at once, and 33 do not fit a batch of 32",
      )
    }
  })

  test("a prompt that is more than one step takes", async () => {
    const long = Array.from({ length: 33 }, (_, index) => index + 3)
    const error = await attempt("t5", { batchSize: 32 }, (model) =>
      Stream.runDrain(model.generate(long, { maxTokens: 2 })),
    )
    expect(error._tag).toBe("ModelError")
    expect(error.message).toContain("33 do not fit a batch of 32; raise --ubatch-size")
  })

  test("no tokens, and tokens outside of the vocabulary", async () => {
    const none = await attempt("bert", {}, (model) => model.evaluate([]))
    expect(none.message).toContain("there are no tokens")
    const outside = await attempt("t5", {}, (model) => model.evaluate([5, 320]))
    expect(outside._tag).toBe("ModelError")
    expect(outside.message).toContain("it has 320 tokens, and none 320")
  })
})

test("an encoder takes as many tokens as its context holds", async () => {
  const all = Array.from({ length: 128 }, (_, index) => index)
  const { rowCount } = await run(
    Effect.gen(function* () {
      const cluster = yield* openCluster([])
      const plan = yield* cluster.plan(paths.bert, { threads: 1 })
      return yield* (yield* cluster.load(plan)).evaluate(all)
    }),
  )
  expect(rowCount).toBe(128)
})

describe("a model with a table of positions", () => {
  const generate = (context: { readonly contextSize?: number }, prompt: readonly number[]) =>
    Effect.gen(function* () {
      const cluster = yield* openCluster(servers.map(({ endpoint }) => endpoint))
      const plan = yield* cluster.plan(paths.gpt2, { threads: 1, ...context })
      const model = yield* cluster.load(plan)
      const pieces = yield* Stream.runCollect(model.generate(prompt, { temp: 0, ignoreEos: true }))
      return [...pieces].filter(({ id }) => id >= 0).length
    })

  test("ends a text with them, in place of an assertion", async () => {
    expect(await run(generate({}, [5, 6, 7]))).toBe(128 - 3 + 1)
  })

  test("refuses a context that is larger, and a text that is", async () => {
    expect((await failureOf(generate({ contextSize: 129 }, [5]))).message).toContain(
      "it learned 128 positions",
    )
    const long = Array.from({ length: 128 }, () => 9)
    expect((await failureOf(generate({}, long))).message).toContain("the context holds 128")
  })
})
