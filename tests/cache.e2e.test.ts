/** The weight cache of a server: one folder and one format for ours and upstream's. */
import {
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  setDefaultTimeout,
  test,
} from "bun:test"
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Cluster } from "@ggml-rpc/client"
import { readGguf } from "@ggml-rpc/gguf"
import { Effect, Stream } from "effect"
import { ensureModel } from "./models/models.ts"
import { ensureArchitectureModels } from "./peers/models.ts"
import { ensurePeers } from "./peers/peers.ts"
import { runProcess, startUpstreamServer } from "./peers/process.ts"
import { openCluster, recite, run, startOurServer } from "./servers.ts"

setDefaultTimeout(60_000)

/** The one tensor that upstream's clients offer by its hash: 32000 × 512 in Q8_0. */
const OUTPUT_BYTES = (32000 * 512 * 34) / 32

/** Of the weights on servers, those of at least so many bytes: their bytes, and how many files they make. */
const weightsFrom = (leastBytes: number) => {
  const weights = readGguf(path).tensors.filter(
    ({ name, sizeBytes }) => name !== "token_embd.weight" && sizeBytes >= leastBytes,
  )
  // All norms are the same.
  const names = new Set(weights.map(({ name }) => (name.includes("norm") ? "norm" : name)))
  return { count: names.size, bytes: weights.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) }
}

const request = { prompt: [1, 17, 290, 3], maxTokens: 6 }
let path: string
let upstreamClient: string
let expected: readonly number[]
let folder: string
/** What our client offers to a server of ours, and to others. */
let all: ReturnType<typeof weightsFrom>
let large: ReturnType<typeof weightsFrom>

beforeAll(async () => {
  path = await ensureModel("q8_0")
  upstreamClient = (await ensurePeers(["upstream-client"]))["upstream-client"]
  await ensurePeers(["rpc-server"])
  all = weightsFrom(0)
  large = weightsFrom(256 * 1024)
  expected = (await recite([], path, request)).tokens
}, 300_000)

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-cache-"))
})

afterEach(() => rmSync(folder, { recursive: true, force: true }))

const ours = () =>
  startOurServer({
    protocol: "peers",
    flags: ["--cache"],
    env: { LLAMA_CACHE: folder, XDG_CACHE_HOME: undefined },
  })
const theirs = () =>
  startUpstreamServer({
    threads: 1,
    cache: true,
    env: { LLAMA_CACHE: folder, XDG_CACHE_HOME: undefined },
  })

const cacheFiles = (): readonly string[] =>
  readdirSync(join(folder, "rpc")).filter((name) => /^[0-9a-f]+$/.test(name))

/** Bytes that our client found in the cache; its tokens must be right. */
const cachedBytes = async (endpoint: string): Promise<number> => (await load(endpoint)).cachedBytes

const load = (endpoint: string, options: Cluster.PlanOptions = {}) =>
  run(
    Effect.gen(function* () {
      const cluster = yield* openCluster([endpoint])
      const model = yield* cluster.load(yield* cluster.plan(path, { threads: 1, ...options }))
      const [link] = (yield* cluster.memory).links
      const pieces = yield* Stream.runCollect(
        model.generate(request.prompt, { maxTokens: request.maxTokens, temp: 0 }),
      )
      expect([...pieces].map(({ id }) => id).filter((id) => id >= 0)).toEqual([...expected])
      const { cachedWeightBytes: cachedBytes, remoteWeightBytes: weightBytes } = model.stats
      return { cachedBytes, weightBytes, wireBytes: link!.sentBytes + link!.receivedBytes }
    }),
  )

const runUpstreamClient = async (endpoint: string): Promise<void> => {
  const result = await runProcess([
    ...[upstreamClient, "-m", path, "--rpc", endpoint, "-t", "1", "--no-warmup"],
    ...["--tokens", request.prompt.join(","), "-n", String(request.maxTokens)],
  ])
  expect(JSON.parse(result.stdout).runs[0].tokens).toEqual(expected)
}

test("our server serves a second client from it, and upstream's server then does, too", async () => {
  await using server = await ours()
  expect(server.stdout()).toContain(join(folder, "rpc"))
  expect(await cachedBytes(server.endpoint)).toBe(0)
  expect(cacheFiles()).toHaveLength(all.count)
  expect(await cachedBytes(server.endpoint)).toBe(all.bytes)
  await runUpstreamClient(server.endpoint)
  await using upstream = await theirs()
  expect(await cachedBytes(upstream.endpoint)).toBe(large.bytes)
  expect(cacheFiles()).toHaveLength(all.count)
})

test("what upstream's client and server left is served by ours", async () => {
  {
    await using upstream = await theirs()
    await runUpstreamClient(upstream.endpoint)
  }
  expect(cacheFiles()).toHaveLength(1)
  await using server = await ours()
  expect(await cachedBytes(server.endpoint)).toBe(OUTPUT_BYTES)
  expect(await cachedBytes(server.endpoint)).toBe(all.bytes)
  await runUpstreamClient(server.endpoint)
})

test.each([
  ["ours", ours, () => all.bytes, 0.001],
  ["upstream's", theirs, () => large.bytes, 0.003],
] as const)(
  "a start after the first sends next to nothing to %s, and reads no weight again",
  async (_, start, expectedBytes, most) => {
    await using server = await start()
    process.env.GGML_RPC_WEIGHT_HASHES = join(folder, "hashes")
    try {
      const first = await load(server.endpoint)
      expect(first.wireBytes).toBeGreaterThan(first.weightBytes)
      // Whether the first start had the time to find out all hashes or not.
      for (let round = 0; round < 2; round++) {
        const { cachedBytes, weightBytes, wireBytes } = await load(server.endpoint)
        expect(cachedBytes).toBe(expectedBytes())
        expect(wireBytes).toBeLessThan(most * weightBytes)
      }
    } finally {
      process.env.GGML_RPC_WEIGHT_HASHES = "none"
    }
  },
)

describe("a model that is cut over two servers", () => {
  const cut = { splitMode: "tensor", tensorSplit: [1, 1] } as const

  const loadOver = (
    endpoints: readonly string[],
    model: string,
    options: Cluster.PlanOptions,
    tokens: readonly number[],
  ) =>
    run(
      Effect.gen(function* () {
        const cluster = yield* openCluster(endpoints)
        const plan = yield* cluster.plan(model, { threads: 1, contextSize: 256, ...options })
        const loaded = yield* cluster.load(plan)
        const { links } = yield* cluster.memory
        const wireBytes = links.reduce((sum, link) => sum + link.sentBytes + link.receivedBytes, 0)
        const { values } = yield* loaded.evaluate(tokens)
        return { ...loaded.stats, wireBytes, values: [...values] }
      }),
    )

  beforeEach(() => {
    process.env.GGML_RPC_WEIGHT_HASHES = join(folder, "hashes")
  })
  afterEach(() => {
    process.env.GGML_RPC_WEIGHT_HASHES = "none"
  })

  test("is not sent again", async () => {
    await using one = await ours()
    await using other = await ours()
    const load = () => loadOver([one.endpoint, other.endpoint], path, cut, request.prompt)
    const first = await load()
    expect(first.wireBytes).toBeGreaterThan(first.remoteWeightBytes)
    for (let round = 0; round < 2; round++) {
      const { cachedWeightBytes, remoteWeightBytes, wireBytes, values } = await load()
      expect(cachedWeightBytes).toBe(remoteWeightBytes)
      expect(wireBytes).toBeLessThan(0.003 * remoteWeightBytes)
      expect(values).toEqual(first.values)
    }
  })

  // Experts with a bias of which each device adds a part; fused weights, of which each device gets several pieces.
  test.each(["llama-moe", "gpt-oss-moe", "qwen3next-moe", "gptneox-dense"])(
    "is what it is, whatever servers have of it: %s",
    async (name) => {
      const model = (await ensureArchitectureModels()).find((each) => each.name === name)!.path
      await using one = await ours()
      await using other = await ours()
      const tokens = Array.from({ length: 32 }, (_, index) => (index * 37 + 5) % 120)
      const load = (options: Cluster.PlanOptions) =>
        loadOver([one.endpoint, other.endpoint], model, options, tokens)
      const { values } = await load(cut)
      await load({ splitMode: "layer" })
      for (let round = 0; round < 2; round++) {
        const again = await load(cut)
        expect(again.cachedWeightBytes).toBeGreaterThan(0.5 * again.remoteWeightBytes)
        expect(again.values).toEqual(values)
      }
    },
  )
})

test("what a server lost of a model is sent again, and nothing else", async () => {
  await using server = await ours()
  await cachedBytes(server.endpoint)
  const small = cacheFiles().find((name) => statSync(join(folder, "rpc", name)).size < 1_000_000)!
  const lost = statSync(join(folder, "rpc", small)).size
  rmSync(join(folder, "rpc", small))
  expect(await cachedBytes(server.endpoint)).toBe(all.bytes - lost)
  expect(await cachedBytes(server.endpoint)).toBe(all.bytes)
})

test("a server that has the model itself is sent nothing of it, until the file changes", async () => {
  const models = join(folder, "models")
  const copy = join(models, "hub", "snapshots", "model.gguf")
  mkdirSync(join(models, "hub", "snapshots"), { recursive: true })
  mkdirSync(join(models, "hub", "blobs"))
  // As Hugging Face's cache has it.
  copyFileSync(path, join(models, "hub", "blobs", "1234"))
  symlinkSync("../blobs/1234", copy)
  writeFileSync(join(models, "broken.gguf"), "GGUF, but for the rest")
  await using server = await startOurServer({
    protocol: "peers",
    flags: ["--models", models],
    env: { XDG_CACHE_HOME: folder, LLAMA_CACHE: undefined },
  })
  expect(server.stdout()).toContain(`models         : ${models}`)
  const index = join(folder, "ggml-rpc", "models")
  const indexed = (): number =>
    readdirSync(index).reduce(
      (sum, name) => sum + readFileSync(join(index, name), "utf8").trim().split("\n").length - 1,
      0,
    )
  while (indexed() < readGguf(path).tensors.length) await Bun.sleep(50)
  const { cachedBytes: found, weightBytes, wireBytes } = await load(server.endpoint)
  expect(found).toBe(all.bytes)
  expect(wireBytes).toBeLessThan(0.001 * weightBytes)
  // llama.cpp's clients have it, too.
  await runUpstreamClient(server.endpoint)
  expect(existsSync(join(folder, "llama.cpp"))).toBe(false)
  const damaged = Buffer.from(readFileSync(copy))
  damaged.fill(0, damaged.length - 100_000)
  writeFileSync(copy, damaged)
  expect(await cachedBytes(server.endpoint)).toBe(0)
})

test("a model and the smaller one that guesses for it are each asked for by their own hashes", async () => {
  // The same names throughout, and some of the same sizes.
  const draft = { path: await ensureModel("q4_0"), devices: ["RPC0"] }
  await using server = await ours()
  process.env.GGML_RPC_WEIGHT_HASHES = join(folder, "hashes")
  try {
    for (let round = 0; round < 3; round++) {
      const { cachedBytes, weightBytes, wireBytes } = await load(server.endpoint, {
        speculation: { draft },
      })
      expect(weightBytes).toBeGreaterThan(1.4 * all.bytes)
      expect(cachedBytes).toBe(round === 0 ? 0 : weightBytes)
      if (round > 0) expect(wireBytes).toBeLessThan(0.01 * weightBytes)
    }
  } finally {
    process.env.GGML_RPC_WEIGHT_HASHES = "none"
  }
})

test("a full disk is told once, and the model runs", async () => {
  const script = `mount -t tmpfs -o size=8m tmpfs ${folder} && exec "$@"`
  await using server = await startOurServer({
    protocol: "peers",
    prefix: ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"],
    flags: ["--cache", "--cache-size", "1G"],
    env: { LLAMA_CACHE: folder, XDG_CACHE_HOME: undefined },
  })
  expect(await cachedBytes(server.endpoint)).toBe(0)
  // The large weight did not fit, and a client that knows no hashes asks for it first.
  expect(await cachedBytes(server.endpoint)).toBe(0)
  expect(server.stderr().match(/the cache does not take all weights: .*ENOSPC/g)).toHaveLength(1)
})

test("a folder on a disk that is only read is told once, serves what it has, and the model runs", async () => {
  {
    await using server = await ours()
    await cachedBytes(server.endpoint)
  }
  const script = `mount --bind ${folder} ${folder} && mount -o remount,bind,ro ${folder} && exec "$@"`
  const start = () =>
    startOurServer({
      protocol: "peers",
      prefix: ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"],
      flags: ["--cache"],
      env: { LLAMA_CACHE: folder, XDG_CACHE_HOME: undefined },
    })
  {
    await using server = await start()
    expect(await cachedBytes(server.endpoint)).toBe(all.bytes)
  }
  for (const name of cacheFiles()) truncateSync(join(folder, "rpc", name), 1000)
  await using server = await start()
  for (let round = 0; round < 2; round++) expect(await cachedBytes(server.endpoint)).toBe(0)
  expect(server.stderr().match(/the cache does not take all weights: .*EROFS/g)).toHaveLength(1)
})

test("two servers on one folder serve what either stored, both at once", async () => {
  await using first = await ours()
  await using second = await ours()
  const endpoints = [first.endpoint, second.endpoint]
  expect(await Promise.all(endpoints.map(cachedBytes))).toContain(0)
  expect(cacheFiles()).toHaveLength(all.count)
  expect(await Promise.all(endpoints.map(cachedBytes))).toEqual([all.bytes, all.bytes])
  // Gone for both, and stored by one again.
  for (const name of cacheFiles()) rmSync(join(folder, "rpc", name))
  expect(await cachedBytes(first.endpoint)).toBe(0)
  expect(await cachedBytes(second.endpoint)).toBe(all.bytes)
})

test("without --cache nothing is written, and our client asks for no hash", async () => {
  await using server = await startOurServer({
    protocol: "peers",
    env: { LLAMA_CACHE: folder, GGML_RPC_DEBUG: "1" },
  })
  expect(await cachedBytes(server.endpoint)).toBe(0)
  expect(readdirSync(folder)).toEqual([])
  expect(server.stderr()).toContain("[SET_TENSOR]")
  expect(server.stderr()).not.toContain("[SET_TENSOR_HASH]")
  expect(server.stderr()).not.toContain("[OFFER_WEIGHTS]")
  await runUpstreamClient(server.endpoint)
  expect(server.stderr()).toContain("[SET_TENSOR_HASH]")
})

test.each(["truncated", "changed", "empty"] as const)(
  "a file that was %s is not served, and replaced",
  async (damage) => {
    await using server = await ours()
    await cachedBytes(server.endpoint)
    const file = cacheFiles()
      .map((name) => join(folder, "rpc", name))
      .find((path) => statSync(path).size === OUTPUT_BYTES)!
    const whole = readFileSync(file)
    if (damage === "truncated") truncateSync(file, whole.length - 1)
    else if (damage === "empty") truncateSync(file, 0)
    else {
      const changed = Buffer.from(whole)
      changed[changed.length >> 1]! ^= 1
      writeFileSync(file, changed)
    }
    // It is the one by which a client without hashes finds out whether there is anything.
    expect(await cachedBytes(server.endpoint)).toBe(0)
    expect(statSync(file).size).toBe(OUTPUT_BYTES)
    expect(readFileSync(file).equals(whole)).toBe(true)
    expect(await cachedBytes(server.endpoint)).toBe(all.bytes)
  },
)
