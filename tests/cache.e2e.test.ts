/** The weight cache of a server: one folder and one format for ours and upstream's. */
import { afterEach, beforeAll, beforeEach, expect, setDefaultTimeout, test } from "bun:test"
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Stream } from "effect"
import { ensureModel } from "./models/models.ts"
import { ensurePeers } from "./peers/peers.ts"
import { runProcess, startUpstreamServer } from "./peers/process.ts"
import { openCluster, recite, run, startOurServer } from "./servers.ts"

setDefaultTimeout(60_000)

/** The one tensor that is large enough to be offered by its hash first: 32000 × 512 in Q8_0. */
const OUTPUT_BYTES = (32000 * 512 * 34) / 32

const request = { prompt: [1, 17, 290, 3], maxTokens: 6 }
let path: string
let upstreamClient: string
let expected: readonly number[]
let folder: string

beforeAll(async () => {
  path = await ensureModel("q8_0")
  upstreamClient = (await ensurePeers(["upstream-client"]))["upstream-client"]
  await ensurePeers(["rpc-server"])
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
const cachedBytes = (endpoint: string): Promise<number> =>
  run(
    Effect.gen(function* () {
      const cluster = yield* openCluster([endpoint])
      const model = yield* cluster.load(yield* cluster.plan(path, { threads: 1 }))
      const pieces = yield* Stream.runCollect(
        model.generate(request.prompt, { maxTokens: request.maxTokens, temp: 0 }),
      )
      expect([...pieces].map(({ id }) => id).filter((id) => id >= 0)).toEqual([...expected])
      return model.stats.cachedWeightBytes
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
  expect(cacheFiles()).toHaveLength(1)
  expect(await cachedBytes(server.endpoint)).toBe(OUTPUT_BYTES)
  await runUpstreamClient(server.endpoint)
  await using upstream = await theirs()
  expect(await cachedBytes(upstream.endpoint)).toBe(OUTPUT_BYTES)
  expect(cacheFiles()).toHaveLength(1)
})

test("what upstream's client and server left is served by ours", async () => {
  {
    await using upstream = await theirs()
    await runUpstreamClient(upstream.endpoint)
  }
  expect(cacheFiles()).toHaveLength(1)
  await using server = await ours()
  expect(await cachedBytes(server.endpoint)).toBe(OUTPUT_BYTES)
  await runUpstreamClient(server.endpoint)
})

test("a full disk is told once, and the model runs", async () => {
  const script = `mount -t tmpfs -o size=8m tmpfs ${folder} && exec "$@"`
  await using server = await startOurServer({
    protocol: "peers",
    prefix: ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"],
    flags: ["--cache", "--cache-size", "1G"],
    env: { LLAMA_CACHE: folder, XDG_CACHE_HOME: undefined },
  })
  for (let round = 0; round < 2; round++) expect(await cachedBytes(server.endpoint)).toBe(0)
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
    expect(await cachedBytes(server.endpoint)).toBe(OUTPUT_BYTES)
  }
  const [name] = cacheFiles()
  truncateSync(join(folder, "rpc", name!), 1000)
  await using server = await start()
  for (let round = 0; round < 2; round++) expect(await cachedBytes(server.endpoint)).toBe(0)
  expect(server.stderr().match(/the cache does not take all weights: .*EROFS/g)).toHaveLength(1)
})

test("two servers on one folder serve what either stored, both at once", async () => {
  await using first = await ours()
  await using second = await ours()
  const endpoints = [first.endpoint, second.endpoint]
  expect(await Promise.all(endpoints.map(cachedBytes))).toContain(0)
  expect(cacheFiles()).toHaveLength(1)
  expect(await Promise.all(endpoints.map(cachedBytes))).toEqual([OUTPUT_BYTES, OUTPUT_BYTES])
  // Gone for both, and stored by one again.
  rmSync(join(folder, "rpc", cacheFiles()[0]!))
  expect(await cachedBytes(first.endpoint)).toBe(0)
  expect(await cachedBytes(second.endpoint)).toBe(OUTPUT_BYTES)
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
  await runUpstreamClient(server.endpoint)
  expect(server.stderr()).toContain("[SET_TENSOR_HASH]")
})

test.each(["truncated", "changed", "empty"] as const)(
  "a file that was %s is not served, and replaced",
  async (damage) => {
    await using server = await ours()
    await cachedBytes(server.endpoint)
    const [name] = cacheFiles()
    const file = join(folder, "rpc", name!)
    const whole = readFileSync(file)
    if (damage === "truncated") truncateSync(file, whole.length - 1)
    else if (damage === "empty") truncateSync(file, 0)
    else {
      const changed = Buffer.from(whole)
      changed[changed.length >> 1]! ^= 1
      writeFileSync(file, changed)
    }
    expect(await cachedBytes(server.endpoint)).toBe(0)
    expect(statSync(file).size).toBe(OUTPUT_BYTES)
    expect(readFileSync(file).equals(whole)).toBe(true)
    expect(await cachedBytes(server.endpoint)).toBe(OUTPUT_BYTES)
  },
)
