/** Every tensor cut over the devices of servers that have several: their sums, bit by bit, what a token costs, and who computes at once. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { Effect, Stream } from "effect"
import { largest } from "../packages/server/test/processes.ts"
import { jsonLines, runCli, temporaryFolder } from "./cli/program.ts"
import { ensureModel } from "./models/models.ts"
import { type PairedOptions, startPairedServer } from "./pairedServers.ts"
import { ensurePeers } from "./peers/peers.ts"
import { failureOf, type OurServer, openCluster, recite } from "./servers.ts"
import { computed } from "./splitModel.ts"

setDefaultTimeout(120_000)

let path: string
const stack = new AsyncDisposableStack()
const folder = stack.use(temporaryFolder())

beforeAll(async () => {
  await ensurePeers(["libpaired-device.so"])
  path = await ensureModel("mixed")
}, 600_000)

afterAll(() => stack.disposeAsync())

const startPaired = async (count: number, options?: PairedOptions): Promise<OurServer> =>
  stack.use(await startPairedServer(count, options))

const LAYERS = 8
const GRAPHS_A_TOKEN = 2 * LAYERS + 1
const work = { promptLength: 80, ubatch: 32 }

test.each([2, 3])(
  "one server of %d devices adds up by itself, and they compute at once",
  async (count) => {
    const log = join(folder.path, `log-${count}`)
    const one = await startPaired(count, {
      env: { GGML_PAIRED_LOG: log },
      flags: ["--peers", "none"],
    })
    const apart = await Promise.all(Array.from({ length: count }, () => startPaired(1)))
    const bits = await computed({ ...work, path, servers: apart, sums: "ggml" })
    const byClient = await computed({ ...work, path, servers: [one], sums: "client" })
    const before = readFileSync(log, "utf8").length
    const byServer = await computed({ ...work, path, servers: [one], sums: "servers" })
    expect(byServer.notes).toEqual([])
    for (const { hashes, tokens } of [byClient, byServer]) {
      expect(hashes).toEqual(bits.hashes)
      expect(tokens).toEqual(bits.tokens)
    }
    // A whole token is one write and one read, as on one device.
    expect(byServer.writes).toEqual([1])
    expect(byServer.answers[0]).toBeLessThanOrEqual(1)
    expect(byClient.writes).toEqual([GRAPHS_A_TOKEN])
    const met = readFileSync(log, "utf8").slice(before)
    // Every graph of the last token, and those of the prompt.
    expect(met.length).toBeGreaterThan(4 * count * GRAPHS_A_TOKEN)
    expect(met).not.toContain("-")
  },
)

test("two servers of two devices each send each other what they could not add up alone", async () => {
  const pairs = [await startPaired(2), await startPaired(2)]
  const apart = await Promise.all(Array.from({ length: 4 }, () => startPaired(1)))
  // As the devices come; so that each server has what is added up first; and with more on one server.
  for (const order of [
    [0, 1, 2, 3],
    [0, 2, 1, 3],
    [1, 2, 3],
  ]) {
    const bits = await computed({ ...work, path, servers: apart, sums: "servers", order })
    const byServers = await computed({ ...work, path, servers: pairs, sums: "servers", order })
    expect(byServers.notes).toEqual([])
    expect(byServers.hashes).toEqual(bits.hashes)
    expect(byServers.tokens).toEqual(bits.tokens)
    expect(byServers.writes).toEqual([1, 1])
    for (const answers of byServers.answers) expect(answers).toBeLessThanOrEqual(1)
  }
})

test("servers of several devices that may not be linked have their sums through the client, as before", async () => {
  const pairs = [await startPaired(2, { flags: ["--peers", "none"] }), await startPaired(1)]
  const byClient = await computed({ ...work, path, servers: pairs, sums: "client" })
  const fallen = await computed({ ...work, path, servers: pairs, sums: "servers" })
  expect(fallen.notes).toEqual([
    `${pairs[0]!.endpoint} makes no links to other servers (serve --peers)`,
  ])
  expect(fallen.hashes).toEqual(byClient.hashes)
})

test("a server that limits how long a graph may run waits for each, and adds up all the same", async () => {
  const log = join(folder.path, "log-limited")
  const limited = await startPaired(2, {
    env: { GGML_PAIRED_LOG: log, GGML_PAIRED_WAIT_MS: "0" },
    // One connection is all that it takes.
    flags: ["--max-compute-seconds", "60", "--max-clients", "1"],
  })
  const one = await startPaired(2)
  const bits = await computed({ ...work, path, servers: [one], sums: "servers" })
  const waiting = await computed({ ...work, path, servers: [limited], sums: "servers" })
  expect(waiting.hashes).toEqual(bits.hashes)
  expect(waiting.writes).toEqual([1])
  expect(readFileSync(log, "utf8")).toMatch(/^-+$/)
})

test("over whole servers of several devices verify finds the sums of ggml, to the bit", async () => {
  const pairs = [await startPaired(2), await startPaired(2)]
  for (const servers of [pairs.slice(0, 1), pairs]) {
    const rpc = servers.map(({ endpoint }) => endpoint).join(",")
    const flags = ["--rpc", rpc, "-sm", "tensor", "-ts", servers.map(() => "1,1").join(",")]
    const { exitCode, stdout } = await runCli(["verify", path, ...flags, "-t", "1", "--json"])
    const [row] = jsonLines(stdout)
    expect(row).toMatchObject({ isPassed: true, sumsNmse: 0 })
    expect(exitCode).toBe(0)
  }
})

test.each([1, 2])(
  "%d servers of two devices say what they say with whole layers",
  async (count) => {
    const pairs = [await startPaired(2), await startPaired(2)]
    const endpoints = pairs.slice(0, count).map(({ endpoint }) => endpoint)
    const demo = await ensureModel("demo")
    const asked = { prompt: "What is this?", maxTokens: 24, contextSize: 512 }
    const tensorSplit = endpoints.flatMap(() => [1, 1])
    const whole = await recite([], demo, asked)
    const cut = await recite(endpoints, demo, { ...asked, tensorSplit, splitMode: "tensor" })
    expect(cut.text).toBe(whole.text)
  },
)

test("a session that dies in the middle of sums of its devices and others is named", async () => {
  const pairs = [await startPaired(2), await startPaired(2)]
  const error = await failureOf(
    Effect.gen(function* () {
      const cluster = yield* openCluster(pairs.map(({ endpoint }) => endpoint))
      const options = { threads: 1, contextSize: 4096, splitMode: "tensor" } as const
      const plan = yield* cluster.plan(path, { ...options, tensorSplit: [1, 1, 1, 1] })
      const model = yield* cluster.load(plan)
      let tokenCount = 0
      yield* Stream.runForEach(
        model.generate([1, 17, 290, 3], { maxTokens: 4000, ignoreEos: true }),
        () =>
          Effect.sync(() => {
            if (++tokenCount === 5) process.kill(largest(pairs[1]!.sessionPids()), "SIGKILL")
          }),
      )
    }),
  )
  expect(error).toMatchObject({ _tag: "ServerLostError", endpoint: pairs[1]!.endpoint })
})
