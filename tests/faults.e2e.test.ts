/** What breaks while a model runs: servers, clients, networks. Typed errors, no hang, nothing left. */
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { readFileSync } from "node:fs"
import type { Cluster } from "@ggml-rpc/client"
import { Deferred, Effect, Either, Exit, Fiber, Scope, Stream } from "effect"
import { isAlive, largest, residentBytes } from "../packages/server/test/processes.ts"
import { ensureModel } from "./models/models.ts"
import { startNetwork } from "./network.ts"
import { ensurePeers } from "./peers/peers.ts"
import { startProcess, startUpstreamServer, waitUntil } from "./peers/process.ts"
import {
  type AnyClusterError,
  failureOf,
  ggmlRpc,
  type OurServer,
  openCluster,
  recite,
  run,
  startOurServer,
} from "./servers.ts"

setDefaultTimeout(60_000)

beforeAll(() => ensurePeers(["rpc-server"]), 300_000)

/** The session process that holds a client's model: the one with the most memory. */
const busySession = (server: OurServer): number => largest(server.sessionPids())

const prompt = [1, 17, 290, 3]

/** A generation that goes on for longer than any test. */
const endless = { maxTokens: 1_000_000, ignoreEos: true } as const

interface LoadOptions extends Omit<Cluster.ClusterOptions, "endpoints"> {
  readonly splitMode?: Cluster.PlanOptions["splitMode"]
}

const load = (
  endpoints: readonly string[],
  path: string,
  { splitMode, ...options }: LoadOptions = {},
) =>
  Effect.gen(function* () {
    const cluster = yield* openCluster(endpoints, options)
    const plan = yield* cluster.plan(path, { threads: 1, contextSize: 4096, splitMode })
    return { cluster, model: yield* cluster.load(plan) }
  })

/** The error of an effect; success is a failure of the test. */
const failed = <A>(effect: Effect.Effect<A, AnyClusterError>): Effect.Effect<AnyClusterError> =>
  Effect.flatMap(Effect.either(effect), (result) =>
    Either.isLeft(result)
      ? Effect.succeed(result.left)
      : Effect.die(new Error("it succeeded where it had to fail")),
  )

/** How a long generation ended, and how long that took, when `fault` happens after a few tokens. */
const generateUntil = (
  endpoints: readonly string[],
  fault: (cluster: Cluster.Cluster) => void,
  options: LoadOptions = {},
): Promise<{ readonly error: AnyClusterError; readonly ms: number; readonly tokenCount: number }> =>
  run(
    Effect.gen(function* () {
      const { cluster, model } = yield* load(
        endpoints,
        yield* Effect.promise(() => ensureModel("q8_0")),
        options,
      )
      let tokenCount = 0
      let faultAt = 0
      const onToken = (): void => {
        if (++tokenCount !== 5) return
        faultAt = performance.now()
        fault(cluster)
      }
      const error = yield* failed(
        Stream.runForEach(model.generate(prompt, endless), () => Effect.sync(onToken)),
      )
      return { error, ms: performance.now() - faultAt, tokenCount }
    }),
  )

describe("a server that dies in the middle of a generation", () => {
  test("ends it with an error that names the server", async () => {
    await using first = await startOurServer()
    await using second = await startOurServer()
    const { error, ms } = await generateUntil([first.endpoint, second.endpoint], () =>
      process.kill(second.pid, "SIGKILL"),
    )
    expect(error).toMatchObject({ _tag: "ServerLostError", endpoint: second.endpoint })
    expect(error.message).toContain(second.endpoint)
    expect(ms).toBeLessThan(5000)
    // Its session processes do not outlive it.
    expect(await waitUntil(() => second.sessionPids().length === 0, 2000)).toBe(true)
  })

  test("ends `ggml-rpc run` within 5 seconds, exit code 1", async () => {
    await using server = await startOurServer()
    const { child } = await startRun([server])
    await using _ = child
    const killed = performance.now()
    process.kill(server.pid, "SIGKILL")
    expect(await child.exited).toBe(1)
    expect(performance.now() - killed).toBeLessThan(5000)
    expect(child.stderr()).toContain(`Lost the server ${server.endpoint}`)
    const last = child.stdout().trim().split("\n").at(-1)
    expect(JSON.parse(last ?? "")).toMatchObject({ event: "error", endpoint: server.endpoint })
  })

  test("by the death of its session alone, and serves the next client", async () => {
    await using server = await startOurServer()
    const { error, ms } = await generateUntil([server.endpoint], () =>
      process.kill(busySession(server), "SIGKILL"),
    )
    expect(error).toMatchObject({ _tag: "ServerLostError", endpoint: server.endpoint })
    expect(ms).toBeLessThan(5000)
    expect(server.isRunning()).toBe(true)
    expect(await waitUntil(() => server.stderr().includes("SIGKILL"), 2000)).toBe(true)
    const path = await ensureModel("demo")
    const { tokens } = await recite([server.endpoint], path, { prompt: "?", maxTokens: 4 })
    expect(tokens).toHaveLength(4)
  })

  test("upstream's server, too", async () => {
    await using server = await startUpstreamServer({ threads: 1 })
    const { error, ms } = await generateUntil([server.endpoint], () => server.signal("SIGKILL"))
    expect(error).toMatchObject({ _tag: "ServerLostError", endpoint: server.endpoint })
    expect(ms).toBeLessThan(5000)
  })

  test("and every later request fails at once", async () => {
    await using server = await startOurServer()
    const path = await ensureModel("tiny")
    await run(
      Effect.gen(function* () {
        const { cluster, model } = yield* load([server.endpoint], path)
        const session = busySession(server)
        process.kill(server.pid, "SIGKILL")
        // It notices the end of the front process a moment later.
        yield* Effect.promise(() => waitUntil(() => !isAlive(session), 2000))
        const errors = [
          yield* failed(model.evaluate([1, 2, 3])),
          yield* failed(Stream.runDrain(model.generate([1, 2, 3], { maxTokens: 2 }))),
          yield* failed(cluster.plan(path, { threads: 1 })),
        ]
        for (const error of errors) {
          expect(error).toMatchObject({ _tag: "ServerLostError", endpoint: server.endpoint })
        }
      }),
    )
  })
})

/** `ggml-rpc run` in the middle of its text. */
const startRun = async (servers: readonly OurServer[], flags: readonly string[] = []) => {
  const path = await ensureModel("q8_0")
  const endpoints = servers.map(({ endpoint }) => endpoint).join(",")
  const child = startProcess([
    ...[...ggmlRpc, "run", "--rpc", endpoints, path, "-p", "word1 word2", "-n", "4000"],
    ...["--ignore-eos", "--threads", "1", "--json", ...flags],
  ])
  expect(await waitUntil(() => child.stdout().includes('"event":"token"'), 30_000)).toBe(true)
  return { child, session: busySession(servers[0]!) }
}

describe("a client that is killed", () => {
  const engineOf = (pid: number): number =>
    Number(readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ")[0])

  test("frees the server's memory, and takes its engine along", async () => {
    await using server = await startOurServer()
    const { child, session } = await startRun([server])
    const engine = engineOf(child.pid)
    expect(isAlive(engine)).toBe(true)
    child.signal("SIGKILL")
    expect(await waitUntil(() => !isAlive(session), 2000)).toBe(true)
    expect(await waitUntil(() => !isAlive(engine), 2000)).toBe(true)
    await child.stop()
    expect(server.isRunning()).toBe(true)
  })

  test("its engine alone: the server is free, and run ends with an error", async () => {
    await using server = await startOurServer()
    const { child, session } = await startRun([server])
    await using _ = child
    process.kill(engineOf(child.pid), "SIGKILL")
    expect(await waitUntil(() => !isAlive(session), 2000)).toBe(true)
    expect(await child.exited).toBe(1)
    expect(child.stderr()).toContain("SIGKILL")
  })

  test("closing the scope leaves neither engine nor session", async () => {
    await using server = await startOurServer()
    const path = await ensureModel("mixed")
    const { engine, session } = await run(
      Effect.gen(function* () {
        const { cluster, model } = yield* load([server.endpoint], path)
        // A session that ran no graph is not spent: its process waits for the next client.
        yield* model.evaluate([1, 2, 3])
        return { engine: cluster.enginePid, session: busySession(server) }
      }),
    )
    expect(isAlive(engine)).toBe(false)
    expect(await waitUntil(() => !isAlive(session), 2000)).toBe(true)
  })
})

describe("a stream that is cancelled", () => {
  test("stops the model, which then goes on with the next request", async () => {
    await using server = await startOurServer()
    const path = await ensureModel("mixed")
    const request = { prompt, maxTokens: 8 }
    const expected = await recite([server.endpoint], path, request)
    const found = await run(
      Effect.gen(function* () {
        const { model } = yield* load([server.endpoint], path)
        const some = yield* Stream.runCollect(Stream.take(model.generate(prompt, endless), 3))
        expect([...some]).toHaveLength(3)
        const pieces = yield* Stream.runCollect(model.generate(prompt, { maxTokens: 8, temp: 0 }))
        return [...pieces].map(({ id }) => id).filter((id) => id >= 0)
      }),
    )
    expect(found).toEqual([...expected.tokens])
  })

  test("by interrupting, in the middle of a token", async () => {
    await using server = await startOurServer()
    const path = await ensureModel("q8_0")
    await run(
      Effect.gen(function* () {
        const { model } = yield* load([server.endpoint], path)
        const started = yield* Deferred.make<void>()
        const fiber = yield* Effect.fork(
          Stream.runForEach(model.generate(prompt, endless), () =>
            Deferred.succeed(started, undefined),
          ),
        )
        yield* Deferred.await(started)
        const before = performance.now()
        yield* Fiber.interrupt(fiber)
        expect(performance.now() - before).toBeLessThan(2000)
        expect(yield* model.tokenize("word1")).not.toEqual([])
      }),
    )
  })

  test("a load that is interrupted frees the server's memory, and the cluster stays usable", async () => {
    await using server = await startOurServer()
    // Slow enough to be caught in the middle of 57 MB.
    using network = startNetwork(server.port, { delayMs: 20, pieceBytes: 64 * 1024 })
    const q8 = await ensureModel("q8_0")
    const demo = await ensureModel("demo")
    await run(
      Effect.gen(function* () {
        const cluster = yield* openCluster([network.endpoint])
        const plan = yield* cluster.plan(q8, { threads: 1 })
        const fiber = yield* Effect.fork(Effect.scoped(cluster.load(plan)))
        const isUploading = () => network.uploadedBytes() > 5_000_000
        expect(yield* Effect.promise(() => waitUntil(isUploading, 20_000))).toBe(true)
        yield* Fiber.interrupt(fiber)
        const model = yield* cluster.load(yield* cluster.plan(demo, { threads: 1 }))
        const { rowCount } = yield* model.evaluate([1, 2, 3])
        expect(rowCount).toBe(3)
        expect(residentBytes(busySession(server))).toBeLessThan(150 * 1024 * 1024)
      }),
    )
  })
})

const stop = (server: OurServer): void => {
  for (const pid of [server.pid, ...server.sessionPids()]) process.kill(pid, "SIGSTOP")
}
const resume = (server: OurServer): void => {
  for (const pid of [server.pid, ...server.sessionPids()]) process.kill(pid, "SIGCONT")
}

describe("a server that hangs", () => {
  test("at the handshake is given up on after the connect timeout", async () => {
    await using server = await startOurServer()
    stop(server)
    try {
      const started = performance.now()
      const error = await failureOf(openCluster([server.endpoint], { connectTimeoutMs: 500 }))
      expect(error).toMatchObject({
        _tag: "HandshakeError",
        endpoint: server.endpoint,
        reason: "busy",
      })
      expect(performance.now() - started).toBeLessThan(5000)
    } finally {
      resume(server)
    }
  })

  test("in the middle of a generation does not hold its user", async () => {
    await using server = await startOurServer()
    const path = await ensureModel("q8_0")
    const scope = Effect.runSync(Scope.make())
    try {
      const { cluster, model } = await Effect.runPromise(
        Scope.extend(load([server.endpoint], path), scope),
      )
      const started = Effect.runSync(Deferred.make<void>())
      const fiber = Effect.runFork(
        Stream.runForEach(model.generate(prompt, endless), () =>
          Deferred.succeed(started, undefined),
        ),
      )
      await Effect.runPromise(Deferred.await(started))
      stop(server)
      await Bun.sleep(100)
      const before = performance.now()
      await Effect.runPromise(Fiber.interrupt(fiber))
      await Effect.runPromise(Scope.close(scope, Exit.void))
      expect(performance.now() - before).toBeLessThan(15_000)
      expect(isAlive(cluster.enginePid)).toBe(false)
    } finally {
      resume(server)
      await Effect.runPromise(Scope.close(scope, Exit.void))
    }
  })

  test("in the middle of a generation is named after some seconds, and given up on after as many as are wanted", async () => {
    await using well = await startOurServer()
    await using server = await startOurServer()
    const waits: Array<Cluster.ServerWait> = []
    try {
      const { error, ms } = await generateUntil(
        [well.endpoint, server.endpoint],
        () => stop(server),
        { silenceMs: 8000, onWait: (wait) => waits.push(wait) },
      )
      expect(error).toMatchObject({
        _tag: "ServerTimeoutError",
        endpoint: server.endpoint,
        silenceMs: 8000,
      })
      expect(ms).toBeGreaterThan(7900)
      expect(ms).toBeLessThan(12_000)
      expect(waits.at(0)).toMatchObject({ endpoint: server.endpoint, isOver: false })
    } finally {
      resume(server)
    }
  })

  test("in the middle of an upload, too", async () => {
    await using server = await startOurServer()
    const path = await ensureModel("demo")
    let isStopped = false
    try {
      const error = await failureOf(
        Effect.gen(function* () {
          const cluster = yield* openCluster([server.endpoint], { silenceMs: 1000 })
          const plan = yield* cluster.plan(path, { threads: 1, contextSize: 4096 })
          stop(server)
          isStopped = true
          return yield* cluster.load(plan)
        }),
      )
      expect(error).toMatchObject({ _tag: "ServerTimeoutError", endpoint: server.endpoint })
    } finally {
      if (isStopped) resume(server)
    }
  })

  test("for a while only delays the tokens", async () => {
    await using server = await startOurServer()
    const path = await ensureModel("mixed")
    const request = { prompt, maxTokens: 200 }
    const expected = await recite([], path, request)
    const reciting = recite([server.endpoint], path, request)
    await waitUntil(() => server.sessionPids().length > 1, 5000)
    for (let times = 0; times < 3; times++) {
      await Bun.sleep(100)
      stop(server)
      await Bun.sleep(200)
      resume(server)
    }
    expect((await reciting).tokens).toEqual(expected.tokens)
  })
})

describe("a server in the middle of sums with others", () => {
  const splitMode = "tensor"

  test.each([
    ["through the client", ["--peers", "none"]],
    ["between the servers", []],
  ])("that dies, %s, ends the text with its name", async (_, flags) => {
    await using well = await startOurServer()
    await using server = await startOurServer({ flags })
    const { error, ms } = await generateUntil(
      [well.endpoint, server.endpoint],
      () => process.kill(server.pid, "SIGKILL"),
      { splitMode },
    )
    expect(error).toMatchObject({ _tag: "ServerLostError", endpoint: server.endpoint })
    expect(ms).toBeLessThan(5000)
  })

  test("that dies is named, not one that ended because of it", async () => {
    await using first = await startOurServer()
    await using second = await startOurServer()
    await using server = await startOurServer()
    const { error } = await generateUntil(
      [first.endpoint, second.endpoint, server.endpoint],
      () => process.kill(busySession(server), "SIGKILL"),
      { splitMode },
    )
    expect(error).toMatchObject({ _tag: "ServerLostError", endpoint: server.endpoint })
  })

  test.each([0, 1, 2])(
    "that hangs is named when others may be silent no longer: %d",
    async (at) => {
      await using first = await startOurServer()
      await using second = await startOurServer()
      await using third = await startOurServer()
      const servers = [first, second, third]
      const server = servers[at]!
      try {
        const { error, ms } = await generateUntil(
          servers.map(({ endpoint }) => endpoint),
          () => stop(server),
          { splitMode, silenceMs: 2000 },
        )
        expect(error).toMatchObject({
          ...{ _tag: "ServerTimeoutError", endpoint: server.endpoint, silenceMs: 2000 },
        })
        expect(ms).toBeGreaterThan(1900)
        expect(ms).toBeLessThan(7000)
      } finally {
        resume(server)
      }
    },
  )

  test("that hangs is among those that are named after some seconds, and ends `ggml-rpc run` with one paragraph", async () => {
    await using well = await startOurServer()
    await using server = await startOurServer()
    const { child } = await startRun([well, server], ["-sm", "tensor", "--timeout", "8"])
    await using _ = child
    stop(server)
    try {
      expect(await child.exited).toBe(1)
    } finally {
      resume(server)
    }
    const waiting = /^\{"event":"waiting".*$/m.exec(child.stdout())?.[0] ?? "{}"
    const { endpoint, others } = JSON.parse(waiting)
    expect([endpoint, ...others].sort()).toEqual([well.endpoint, server.endpoint].sort())
    const errors = child.stderr().match(/^error: .*$/gm)
    expect(errors).toEqual([expect.stringContaining(`The server ${server.endpoint} was silent`)])
    expect(child.stderr()).not.toMatch(/^ +at /m)
  })

  test("whose link passes nothing on: both are named, as either waits for the other", async () => {
    await using first = await startOurServer()
    await using second = await startOurServer()
    using network = startNetwork(second.port)
    const { error } = await generateUntil(
      [first.endpoint, network.endpoint],
      () => network.links.stall(),
      { splitMode, silenceMs: 2000 },
    )
    const { endpoint, awaits, message } = error as AnyClusterError & {
      readonly endpoint: string
      readonly awaits: string
    }
    expect([endpoint, awaits].sort()).toEqual([first.endpoint, network.endpoint].sort())
    expect(message).toContain("each waits for the other one's part of a sum")
  })

  test("whose link breaks", async () => {
    await using first = await startOurServer()
    await using second = await startOurServer()
    using network = startNetwork(second.port)
    const { error, ms } = await generateUntil(
      [first.endpoint, network.endpoint],
      () => network.links.breakAll(),
      { splitMode },
    )
    expect(error._tag).toBe("ServerLostError")
    expect(error.message).toContain(first.endpoint)
    expect(error.message).toContain(network.endpoint)
    expect(ms).toBeLessThan(5000)
  })

  test("that sends too much is named, by the other's log as well", async () => {
    await using first = await startOurServer()
    await using second = await startOurServer()
    using network = startNetwork(second.port)
    const { error, ms } = await generateUntil(
      [first.endpoint, network.endpoint],
      () => network.links.inject(new Uint8Array(1000)),
      { splitMode },
    )
    expect(error).toMatchObject({
      _tag: "ServerLostError",
      endpoint: network.endpoint,
      detail: `it sent ${first.endpoint} something else than its part of a sum`,
    })
    expect(ms).toBeLessThan(5000)
    const line = "the other server, 127.0.0.1 (number 1 of 2), sent something else than its part"
    expect(await waitUntil(() => first.stderr().includes(line), 2000)).toBe(true)
  })
})

describe("a network", () => {
  test("that breaks in the middle of an upload: an error that names the server, and no session left", async () => {
    await using server = await startOurServer()
    using network = startNetwork(server.port, { breakAfterBytes: 20_000_000 })
    const path = await ensureModel("q8_0")
    const started = performance.now()
    const error = await failureOf(load([network.endpoint], path))
    expect(error).toMatchObject({ _tag: "ServerLostError", endpoint: network.endpoint })
    expect(performance.now() - started).toBeLessThan(10_000)
    const isFree = () => server.sessionPids().every((pid) => residentBytes(pid) < 150 * 1024 * 1024)
    expect(await waitUntil(isFree, 2000)).toBe(true)
  })

  test("that breaks in the middle of a generation", async () => {
    await using server = await startOurServer()
    using network = startNetwork(server.port)
    const { error, ms } = await generateUntil([network.endpoint], () => network.breakAll())
    expect(error).toMatchObject({ _tag: "ServerLostError", endpoint: network.endpoint })
    expect(ms).toBeLessThan(5000)
  })

  test.each([{ delayMs: 15 }, { pieceBytes: 7 }, { delayMs: 3, pieceBytes: 1000 }])(
    "of %o gives the right tokens over two servers",
    async (options) => {
      await using first = await startOurServer()
      await using second = await startOurServer()
      using near = startNetwork(first.port, options)
      using far = startNetwork(second.port, options)
      const path = await ensureModel("tiny")
      const request = { prompt, maxTokens: 12 }
      const expected = await recite([], path, request)
      const found = await recite([near.endpoint, far.endpoint], path, request)
      expect(found.tokens).toEqual(expected.tokens)
      expect(near.uploadedBytes()).toBeGreaterThan(100_000)
      expect(far.uploadedBytes()).toBeGreaterThan(100_000)
    },
  )

  test("that falls silent does not hold its user", async () => {
    await using server = await startOurServer()
    using network = startNetwork(server.port)
    const path = await ensureModel("tiny")
    const scope = Effect.runSync(Scope.make())
    const { cluster, model } = await Effect.runPromise(
      Scope.extend(load([network.endpoint], path), scope),
    )
    network.stall()
    const fiber = Effect.runFork(model.evaluate([1, 2, 3]))
    await Bun.sleep(200)
    await Effect.runPromise(Fiber.interrupt(fiber))
    const before = performance.now()
    await Effect.runPromise(Scope.close(scope, Exit.void))
    expect(performance.now() - before).toBeLessThan(15_000)
    expect(isAlive(cluster.enginePid)).toBe(false)
  })
})
