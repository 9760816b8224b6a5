/** Models with an encoder: embeddings, or logits of a decoder behind it, as on one machine. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect } from "effect"
import { writeEncoderModels } from "./models/encoders.ts"
import type { ServerProcess } from "./peers/process.ts"
import { openCluster, run, startOurServer } from "./servers.ts"

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
