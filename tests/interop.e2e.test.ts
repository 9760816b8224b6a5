/**
 * Ours and upstream's client over ours and upstream's servers: the same tokens as one process computes
 * without any server, for every split.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect } from "effect"
import { ensureModel } from "./models/models.ts"
import { ensurePeers } from "./peers/peers.ts"
import { runProcess, type ServerProcess, startUpstreamServer } from "./peers/process.ts"
import { openCluster, recite, run, startOurServer } from "./servers.ts"

setDefaultTimeout(60_000)

const scratch = mkdtempSync(join(tmpdir(), "interop-"))
const stack = new AsyncDisposableStack()
let upstreamClient: string
const servers = new Map<string, ServerProcess>()

const serverNames = ["ours1", "ours2", "ours3", "upstream1", "upstream2", "upstream3"] as const
type ServerName = (typeof serverNames)[number]

/** Llama.cpp's servers multiply weights in the layout that they came in, and sums in another order have other bits. */
const asSent = ["--no-repack"]

const endpointsOf = (names: readonly ServerName[]): string[] =>
  names.map((name) => servers.get(name)!.endpoint)

beforeAll(async () => {
  upstreamClient = (await ensurePeers(["upstream-client"]))["upstream-client"]
  await ensurePeers(["rpc-server"])
  for (const name of serverNames) {
    const server = name.startsWith("ours")
      ? startOurServer({ protocol: "peers", flags: asSent })
      : startUpstreamServer({ threads: 1 })
    servers.set(name, stack.use(await server))
  }
}, 300_000)

afterAll(async () => {
  rmSync(scratch, { recursive: true, force: true })
  await stack.disposeAsync()
})

interface Case {
  readonly path: string
  readonly prompt: string | readonly number[]
  readonly maxTokens: number
}

const models = {
  demo: async (): Promise<Case> => ({
    path: await ensureModel("demo"),
    prompt: "What is this?",
    maxTokens: 64,
  }),
  mixed: async (): Promise<Case> => ({
    path: await ensureModel("mixed"),
    prompt: [1, 17, 290, 3, 4444, 8191, 5, 77],
    maxTokens: 24,
  }),
}
type ModelName = keyof typeof models

const runUpstream = async (
  { path, prompt, maxTokens }: Case,
  options: readonly string[],
): Promise<{ readonly tokens: readonly number[]; readonly endpoints: readonly string[] }> => {
  const result = await runProcess([
    ...[upstreamClient, "-m", path, "-t", "1", "-n", String(maxTokens), "--no-warmup"],
    ...(typeof prompt === "string" ? ["-p", prompt] : ["--tokens", prompt.join(",")]),
    ...options,
  ])
  expect(result).toMatchObject({ exitCode: 0, stderr: "" })
  const { runs, devices } = JSON.parse(result.stdout)
  return {
    tokens: runs[0].tokens,
    endpoints: devices.map(({ description }: { description: string }) => description),
  }
}

const references = new Map<ModelName, Promise<readonly number[]>>()

/** What upstream's libraries compute in one process. */
const referenceOf = (name: ModelName): Promise<readonly number[]> => {
  const known = references.get(name)
  if (known !== undefined) return known
  const computed = models[name]().then(async (model) => (await runUpstream(model, [])).tokens)
  references.set(name, computed)
  return computed
}

const serverSets: ReadonlyArray<readonly ServerName[]> = [
  ["ours1"],
  ["ours1", "ours2"],
  ["ours1", "ours2", "ours3"],
  ["upstream1"],
  ["upstream1", "upstream2"],
  ["upstream1", "upstream2", "upstream3"],
  ["ours1", "upstream1"],
  ["upstream1", "ours1", "upstream2"],
]

describe.each(Object.keys(models) as ModelName[])("%s", (name) => {
  test("our client without servers computes what upstream's does", async () => {
    const model = await models[name]()
    const { tokens } = await recite([], model.path, model)
    expect(tokens).toHaveLength(model.maxTokens)
    expect(tokens).toEqual(await referenceOf(name))
  })

  for (const set of serverSets) {
    test(`our client over ${set.join(", ")}`, async () => {
      const model = await models[name]()
      const { tokens, unitCounts } = await recite(endpointsOf(set), model.path, model)
      expect(tokens).toEqual(await referenceOf(name))
      // Every server has a part of it, and this process none.
      expect(unitCounts).toHaveLength(set.length + 1)
      for (const count of unitCounts.slice(0, -1)) expect(count).toBeGreaterThan(0)
      expect(unitCounts.at(-1)).toBe(0)
    })

    test(`upstream's client over ${set.join(", ")}`, async () => {
      const model = await models[name]()
      const endpoints = endpointsOf(set)
      const found = await runUpstream(model, ["--rpc", endpoints.join(",")])
      expect(found).toEqual({ tokens: await referenceOf(name), endpoints })
    })
  }

  test("every split of layers gives the same tokens", async () => {
    const model = await models[name]()
    const endpoints = endpointsOf(["ours1", "upstream1"])
    const expected = await referenceOf(name)
    const splits = [
      { tensorSplit: [1, 8], unitCounts: [1, 8, 0] },
      { tensorSplit: [8, 1], unitCounts: [8, 1, 0] },
      { tensorSplit: [0, 1], unitCounts: [0, 9, 0] },
      { tensorSplit: [1, 1], gpuLayers: 4, unitCounts: [2, 2, 5] },
      { gpuLayers: 0, unitCounts: [0, 0, 9] },
    ]
    for (const { unitCounts, ...options } of splits) {
      const recital = await recite(endpoints, model.path, { ...model, ...options })
      expect(recital.unitCounts).toEqual(unitCounts)
      expect(recital.tokens).toEqual(expected)
    }
  })
})

test("links are measured beside a model, whose text goes on", async () => {
  const { path, prompt } = await models.mixed()
  const { first, second, speeds } = await run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpointsOf(["upstream1", "upstream2"]))
      const model = yield* cluster.load(yield* cluster.plan(path, { threads: 1 }))
      const text = Effect.gen(function* () {
        const ids: Array<number> = []
        yield* model.generateEach(prompt, ({ id }) => void ids.push(id), { maxTokens: 6, temp: 0 })
        return ids
      })
      const first = yield* text
      const speeds = yield* cluster.linkSpeeds
      // Of its prompt only the last token is computed: by the graph that the last token before had.
      return { first, second: yield* text, speeds }
    }),
  )
  expect(speeds).toHaveLength(2)
  expect(second).toEqual(first)
})

/** Logits of the mixed model in one process of upstream's. */
const inProcessLogits = async (options: readonly string[]): Promise<Float32Array> => {
  const { path, prompt } = await models.mixed()
  const file = join(scratch, "logits")
  await runUpstream({ path, prompt, maxTokens: 1 }, [...options, "--logits", file])
  return new Float32Array(await Bun.file(file).arrayBuffer())
}

const logitsOver = async (endpoints: readonly string[]): Promise<Float32Array> => {
  const { path, prompt } = await models.mixed()
  const tokens = prompt as readonly number[]
  const found = await run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpoints)
      const model = yield* cluster.load(yield* cluster.plan(path, { threads: 1 }))
      return yield* model.evaluate(tokens)
    }),
  )
  expect(found.kind).toBe("logits")
  expect([found.rowCount, found.columnCount]).toEqual([tokens.length, 8192])
  return found.values
}

test("logits over ours and upstream's servers are upstream's in-process logits, bit for bit", async () => {
  const expected = await inProcessLogits(["--no-repack"])
  expect(await logitsOver(endpointsOf(["ours1", "upstream1", "ours2"]))).toEqual(expected)
})

test("with repacked weights on both sides as well", async () => {
  await using first = await startOurServer({ protocol: "peers" })
  await using second = await startOurServer({ protocol: "peers" })
  const expected = await inProcessLogits([])
  expect(await logitsOver([first.endpoint, second.endpoint])).toEqual(expected)
  expect(expected).not.toEqual(await inProcessLogits(["--no-repack"]))
})

describe("a server with two devices", () => {
  // The prebuilt libraries know one CPU device; the same name twice makes two devices of it, which
  // share its memory but have buffers and graphs of their own.
  const twice = ["--device", "CPU,CPU", ...asSent]

  test("our client and upstream's use both", async () => {
    const model = await models.mixed()
    await using server = await startOurServer({ protocol: "peers", flags: twice })
    const endpoints = [server.endpoint, server.endpoint]
    const ours = await recite([server.endpoint], model.path, { ...model, tensorSplit: [4, 5] })
    expect(ours.unitCounts).toEqual([4, 5, 0])
    expect(ours.tokens).toEqual(await referenceOf("mixed"))
    const theirs = await runUpstream(model, ["--rpc", server.endpoint, "-ts", "4,5"])
    expect(theirs).toEqual({ tokens: await referenceOf("mixed"), endpoints })
  })

  test("our client splits over it and another server", async () => {
    const model = await models.mixed()
    await using server = await startOurServer({ protocol: "peers", flags: twice })
    const ours = await recite([server.endpoint, ...endpointsOf(["upstream1"])], model.path, {
      ...model,
      tensorSplit: [1, 1, 1],
    })
    expect(ours.unitCounts).toEqual([3, 3, 3, 0])
    expect(ours.tokens).toEqual(await referenceOf("mixed"))
  })
})

test("several clients of both kinds at once over the same servers", async () => {
  const model = await models.mixed()
  const endpoints = endpointsOf(["ours1", "ours2"])
  const ours = () => recite(endpoints, model.path, model)
  const theirs = () => runUpstream(model, ["--rpc", endpoints.join(",")])
  const found = await Promise.all([ours(), theirs(), ours(), theirs()])
  for (const { tokens } of found) expect(tokens).toEqual(await referenceOf("mixed"))
})

// Containers often have none.
const hasIpv6 = existsSync("/proc/net/if_inet6")

test.skipIf(!hasIpv6)("over IPv6", async () => {
  const model = await models.demo()
  await using server = await startOurServer({ flags: ["--host", "::1"] })
  expect(server.endpoint).toBe(`[::1]:${server.port}`)
  const { tokens } = await recite([server.endpoint], model.path, model)
  expect(tokens).toEqual(await referenceOf("demo"))
})
