/**
 * Damaged model files: every one of them runs, or is told in a sentence, and none takes more with it than the engine.
 * GGML_RPC_FUZZ_SEED chooses other damage.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Cluster } from "@ggml-rpc/client"
import { SeededRandom } from "@ggml-rpc/gguf"
import { Effect, Either, Exit, Scope, Stream } from "effect"
import { ensureModel } from "./models/models.ts"
import { type AnyClusterError, type OurServer, openCluster, startOurServer } from "./servers.ts"

setDefaultTimeout(180_000)

const seed = Number(process.env.GGML_RPC_FUZZ_SEED ?? 20_261_128)
const DAMAGE_COUNT = 400

const folder = mkdtempSync(join(tmpdir(), "damaged-models-"))
let server: OurServer

beforeAll(async () => {
  server = await startOurServer()
})

afterAll(async () => {
  await server?.stop()
  rmSync(folder, { recursive: true })
})

const oddNumbers = [0n, 1n, 3n, 255n, 0x7fffffffn, 0x80000000n, 0xffffffffn, 2n ** 63n - 1n]

interface Damage {
  readonly name: string
  readonly bytes: Uint8Array
}

/** Where its values and the start of the vocabulary are, and the whole of what is no weight. */
const regions = [900, 14_500]

const damaged = (whole: Uint8Array, below: (limit: number) => number): Damage => {
  const at = below(regions[below(regions.length)]!)
  const kind = below(4)
  if (kind === 0) return { name: `cut at ${at}`, bytes: whole.subarray(0, at) }
  const bytes = whole.slice()
  if (kind === 1) {
    const value = oddNumbers[below(oddNumbers.length)]!
    new DataView(bytes.buffer).setBigUint64(at, value, true)
    return { name: `${value} at ${at}`, bytes }
  }
  const bit = below(8)
  bytes[at]! ^= 1 << bit
  return { name: `bit ${bit} of ${at}`, bytes }
}

const use = (cluster: Cluster.Cluster, path: string) =>
  Effect.scoped(
    Effect.gen(function* () {
      // Some of a damaged number is a context, which is not to take a machine's memory here.
      const plan = yield* cluster.plan(path, { threads: 1, contextSize: 256 })
      const model = yield* cluster.load(plan)
      yield* Stream.runDrain(model.generate("Hello", { maxTokens: 3, temp: 0 }))
    }),
  )

const isTold = (error: AnyClusterError): boolean =>
  ["GgufError", "ModelError", "PlanError"].includes(error._tag) ||
  (error._tag === "EngineEndedError" && error.reason === "gave-up")

test(`${DAMAGE_COUNT} damaged files, seed ${seed}`, async () => {
  const whole = new Uint8Array(readFileSync(await ensureModel("demo")))
  const path = join(folder, "damaged.gguf")
  const random = new SeededRandom(seed)
  const below = (limit: number): number => Math.floor(random.uniform() * limit)
  const untold: Array<string> = []
  let scope = Effect.runSync(Scope.make())
  const open = () =>
    Effect.runPromise(Scope.extend(openCluster([server.endpoint], { silenceMs: 20_000 }), scope))
  let cluster = await open()
  for (let count = 0; count < DAMAGE_COUNT; count++) {
    const { name, bytes } = damaged(whole, below)
    writeFileSync(path, bytes)
    const end = await Effect.runPromise(Effect.either(use(cluster, path)))
    if (Either.isRight(end)) continue
    if (!isTold(end.left)) untold.push(`${name}: ${end.left._tag}: ${end.left.message}`)
    if (["GgufError", "ModelError", "PlanError"].includes(end.left._tag)) continue
    await Effect.runPromise(Scope.close(scope, Exit.void))
    scope = Effect.runSync(Scope.make())
    cluster = await open()
  }
  await Effect.runPromise(Scope.close(scope, Exit.void))
  expect(untold).toEqual([])
  expect(server.isRunning()).toBe(true)
})
