/** A server whose device lacks operations that a model needs: what our client knows of it, says, and does. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { Effect, Either } from "effect"
import { runCli } from "./cli/program.ts"
import { ensureModel } from "./models/models.ts"
import { ensurePeers } from "./peers/peers.ts"
import { failureOf, type OurServer, openCluster, recite, run, startOurServer } from "./servers.ts"

setDefaultTimeout(60_000)

let backend: string
beforeAll(async () => {
  backend = (await ensurePeers(["librefusing-device.so"]))["librefusing-device.so"]
}, 600_000)

const stack = new AsyncDisposableStack()
afterAll(() => stack.disposeAsync())

const servers = new Map<string, Promise<OurServer>>()

/** A server of one device that does not support these operations. */
const refusing = (operations: string): Promise<OurServer> => {
  const known = servers.get(operations)
  if (known !== undefined) return known
  const started = startOurServer({
    flags: ["--device", "REFUSING"],
    env: { GGML_BACKEND_PATH: backend, GGML_REFUSED_OPS: operations },
  }).then((server) => stack.use(server))
  servers.set(operations, started)
  return started
}

const planOn = (endpoints: readonly string[], path: string, options = {}) =>
  Effect.flatMap(openCluster(endpoints), (cluster) =>
    cluster.plan(path, { threads: 1, contextSize: 256, ...options }),
  )

const prompt = "What is this?"
const maxTokens = 24

describe("operations that the device does not support", () => {
  test.each([
    ["ROPE"],
    ["RMS_NORM,SILU,SWIGLU"],
    ["MUL_MAT"],
    ["FLASH_ATTN_EXT"],
    ["ADD,MUL,GET_ROWS"],
  ])("%s: are computed elsewhere, with the tokens of this process", async (operations) => {
    const server = await refusing(operations)
    const path = await ensureModel("demo")
    const local = await recite([], path, { prompt, maxTokens })
    const remote = await recite([server.endpoint], path, { prompt, maxTokens })
    expect(local.tokens).toHaveLength(maxTokens)
    expect(remote.tokens).toEqual(local.tokens)
    expect(remote.unitCounts[0]).toBeGreaterThan(0)
  })

  test("are named by the plan, with what they cost", async () => {
    const server = await refusing("ROPE")
    const plan = await run(planOn([server.endpoint], await ensureModel("demo")))
    const [found, ...others] = plan.unsupported
    expect(others).toEqual([])
    // Queries and keys of eight layers.
    expect(found).toMatchObject({
      device: "RPC0",
      place: server.endpoint,
      operations: [{ name: "ROPE", type: "F32", nodeCount: 16 }],
    })
    expect(found!.pieceCount).toBeGreaterThan(8)
    expect(found!.bytesPerToken).toBeGreaterThan(8 * 2 * 4 * 64)
  })

  test("are named of nodes in a row as well, and only where they matter", async () => {
    const server = await refusing("RMS_NORM,MUL,GET_ROWS")
    const plan = await run(planOn([server.endpoint], await ensureModel("demo")))
    const names = plan.unsupported.flatMap(({ operations }) =>
      operations.map(({ name, type }) => `${name} of ${type}`),
    )
    // Rows of the embedding, which are F16, are this host's in any case.
    expect(names.toSorted()).toEqual(["GET_ROWS of F32", "MUL of F32", "RMS_NORM of F32"])
  })

  test("are left out when the device has no layer", async () => {
    const server = await refusing("ROPE")
    const whole = await startOurServer()
    await using _ = whole
    const tensorSplit = [0, 1]
    const endpoints = [server.endpoint, whole.endpoint]
    const plan = await run(planOn(endpoints, await ensureModel("demo"), { tensorSplit }))
    expect(plan.unsupported).toEqual([])
    const both = await run(planOn(endpoints, await ensureModel("demo"), { tensorSplit: [1, 1] }))
    expect(both.unsupported.map(({ place }) => place)).toEqual([server.endpoint])
  })

  test("that an automatic choice avoids are no trouble", async () => {
    const server = await refusing("FLASH_ATTN_EXT")
    const path = await ensureModel("demo")
    const auto = await run(planOn([server.endpoint], path))
    expect(auto.unsupported).toEqual([])
    const wanted = await run(planOn([server.endpoint], path, { flashAttention: "on" }))
    expect(wanted.unsupported).toMatchObject([{ operations: [{ name: "FLASH_ATTN_EXT" }] }])
  })
})

test("a device that supports everything is asked once, and nothing is said of it", async () => {
  await using server = await startOurServer({ env: { GGML_RPC_DEBUG: "1" } })
  const path = await ensureModel("demo")
  await run(
    Effect.gen(function* () {
      const cluster = yield* openCluster([server.endpoint])
      const plan = yield* cluster.plan(path, { threads: 1, contextSize: 512 })
      expect(plan.unsupported).toEqual([])
      const model = yield* cluster.load(yield* cluster.plan(path, { threads: 1, contextSize: 512 }))
      yield* model.evaluate([1, 2, 3, 4, 5])
      yield* model.evaluate([1])
    }),
  )
  const log = server.stdout() + server.stderr()
  const questions = log.match(/\[DEVICE_SUPPORTS\] \d+ bytes/g) ?? []
  // One for the plan, and perhaps one for a batch that the plan does not have.
  expect(questions.length).toBeGreaterThan(0)
  expect(questions.length).toBeLessThanOrEqual(2)
})

describe("what no other device can compute", () => {
  test("ends the plan before anything is sent, and leaves the cluster as it was", async () => {
    const server = await refusing("SET_ROWS")
    const path = await ensureModel("demo")
    const options = { threads: 1, contextSize: 256 }
    await run(
      Effect.gen(function* () {
        const cluster = yield* openCluster([server.endpoint])
        const error = yield* Effect.either(cluster.plan(path, options))
        expect(Either.isLeft(error) && error.left).toMatchObject({
          _tag: "UnsupportedOpError",
          endpoint: server.endpoint,
          op: "SET_ROWS",
        })
        const local = yield* cluster.plan(path, { ...options, gpuLayers: 0 })
        expect(local.unsupported).toEqual([])
      }),
    )
  })
})

test("a plan that does not fit says what was left to this host", async () => {
  const server = await refusing("MUL_MAT")
  const path = await ensureModel("demo")
  // All the weights are this host's, which may not use that much.
  const headroomBytes = 2 ** 62
  const error = await failureOf(planOn([server.endpoint], path, { headroomBytes }))
  expect(error).toMatchObject({ _tag: "PlanError", reason: "does-not-fit" })
  expect(error.message).toContain(`RPC0 (${server.endpoint}) cannot compute MUL_MAT of F16`)
})

describe("a server of ours for an old version alone", () => {
  const start = () =>
    startOurServer({
      protocol: "3.6.1",
      flags: ["--device", "REFUSING"],
      env: { GGML_BACKEND_PATH: backend, GGML_REFUSED_OPS: "ROPE" },
    })

  test("is known by its first answer, and asked as one of today", async () => {
    await using server = await start()
    const path = await ensureModel("demo")
    const local = await recite([], path, { prompt, maxTokens })
    const remote = await recite([server.endpoint], path, { prompt, maxTokens })
    expect(remote.tokens).toEqual(local.tokens)
    const plan = await run(planOn([server.endpoint], path))
    expect(plan.unsupported).toMatchObject([{ operations: [{ name: "ROPE" }] }])
    const listed = JSON.parse(
      (await runCli(["devices", "--json", "--rpc", server.endpoint])).stdout,
    )
    expect(listed.devices[0].server).toEqual({ kind: "ggml-rpc", protocol: "3.6.1", device: 0 })
    expect(server.stdout() + server.stderr()).not.toMatch(/error|warning/)
  })
})

describe("the commands", () => {
  test("plan says it in a line, and in JSON", async () => {
    const server = await refusing("ROPE")
    const path = await ensureModel("demo")
    const args = ["plan", "--rpc", server.endpoint, "--device", "none", "-c", "256", path]
    const { exitCode, stdout } = await runCli(args)
    expect(exitCode).toBe(0)
    expect(stdout).toContain(
      `warning: RPC0 (${server.endpoint}) cannot compute ROPE of F32 (16 a token)`,
    )
    const json = JSON.parse((await runCli([...args, "--json"])).stdout)
    expect(json.unsupported).toMatchObject([
      { device: "RPC0", place: server.endpoint, operations: [{ name: "ROPE", nodeCount: 16 }] },
    ])
  })

  test("run says it before it loads", async () => {
    const server = await refusing("ROPE")
    const path = await ensureModel("demo")
    const args = ["run", "--rpc", server.endpoint, "--device", "none", "-c", "256", "-n", "2"]
    const { exitCode, stderr } = await runCli([...args, "-p", "Hello", path])
    expect(exitCode).toBe(0)
    expect(stderr.indexOf("cannot compute ROPE")).toBeGreaterThan(0)
    expect(stderr.indexOf("cannot compute ROPE")).toBeLessThan(stderr.indexOf("loaded in"))
  })
})
