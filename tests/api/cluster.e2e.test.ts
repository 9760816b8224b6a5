/** `GET /cluster`, of this machine's CPU alone. */
import { expect, setDefaultTimeout, test } from "bun:test"
import { serveApi } from "@ggml-rpc/api"
import { Effect } from "effect"
import { ensureModel } from "../models/models.ts"
import { openCluster, run, startOurServer } from "../servers.ts"
import { askJson } from "./apiServer.ts"

setDefaultTimeout(60_000)

test("tells what has crossed the links", async () => {
  const path = await ensureModel("demo")
  await using server = await startOurServer()
  await run(
    Effect.gen(function* () {
      const api = yield* Effect.orDie(serveApi({ port: 0 }))
      const cluster = yield* openCluster([server.endpoint])
      const plan = yield* cluster.plan(path, { contextSize: 256, threads: 1 })
      const model = yield* cluster.load(plan)
      api.offer(model, "demo", cluster)
      const { body } = yield* Effect.promise(() => askJson(`${api.url}/cluster`))
      const [{ servers }] = body.hosts
      expect(servers[0].endpoint).toBe(server.endpoint)
      expect(servers[0].sent_bytes).toBeGreaterThan(model.stats.remoteWeightBytes)
      expect(servers[0].sent_bytes).toBeLessThan(model.stats.remoteWeightBytes + 2 ** 20)
      expect(servers[0].received_bytes).toBeGreaterThan(0)
      const before = yield* cluster.memory
      yield* model.generateEach([1, 2, 3], () => {}, { maxTokens: 4 })
      const after = yield* cluster.memory
      // Four rows of logits at least.
      const received = after.links[0]!.receivedBytes - before.links[0]!.receivedBytes
      expect(received).toBeGreaterThan(4 * 4 * model.info.vocabSize)
      expect(after.atMs).toBeGreaterThan(before.atMs)
    }),
  )
})

test("tells what goes on as often as it is asked, and asks for memory now and then", async () => {
  const path = await ensureModel("demo")
  let askedCount = 0
  await run(
    Effect.gen(function* () {
      const api = yield* Effect.orDie(serveApi({ port: 0 }))
      const cluster = yield* openCluster([])
      const plan = yield* cluster.plan(path, { contextSize: 1024, threads: 1, slots: 3 })
      const model = yield* cluster.load(plan)
      const memory = Effect.tap(cluster.memory, () => {
        askedCount += 1
      })
      api.offer(model, "demo", { ...cluster, memory })
      yield* Effect.promise(async () => {
        const first = await askJson(`${api.url}/cluster`)
        expect(first.body).toMatchObject({
          model: { name: "demo", architecture: "llama", layer_count: 8, context_size: 1024 },
          load: { sent_bytes: 0, cached_bytes: 0 },
          queued_count: 0,
          generated_token_count: 0,
        })
        const idle = { state: "idle", token_count: 0 }
        expect(first.body.slots).toEqual([0, 1, 2].map((id) => ({ id, ...idle })))
        const [{ name, servers, devices }] = first.body.hosts
        expect([name, servers, devices.length]).toEqual([null, [], 1])
        expect(devices[0]).toMatchObject({
          ...{ name: "CPU", endpoint: null, first_layer: 0, layer_count: 8 },
          ...{ has_input: true, has_output: true },
        })
        expect(devices[0].weight_bytes).toBeGreaterThan(0)
        expect(devices[0].free_bytes).toBeLessThan(devices[0].total_bytes)
        await askJson(`${api.url}/completion`, { prompt: "Hello", n_predict: 5 })
        const second = await askJson(`${api.url}/cluster`)
        expect(second.body.generated_token_count).toBe(5)
        expect(askedCount).toBe(1)
      })
    }),
  )
})
