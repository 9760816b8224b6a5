/** The engine and the probe against servers that answer wrongly, and the engine's own ways to end. */
import { describe, expect, setDefaultTimeout, test } from "bun:test"
import { readFileSync } from "node:fs"
import { Cluster, type Endpoint, parseEndpoint, probe } from "@ggml-rpc/client"
import {
  Command,
  ExtensionCommand,
  encodeExtensionResponse,
  encodeResponse,
  findVersion,
  HelloExtension,
  type ProtocolSpec,
  type Version,
} from "@ggml-rpc/protocol"
import { Effect, Either, Exit, Fiber, Scope, Stream } from "effect"
import {
  type Answer,
  type Answers,
  goodAnswers,
  helloOf,
  startFakeServer,
  startSilentPort,
} from "./fakeServer.ts"
import { ensureModel } from "./models/models.ts"
import { freePort, waitUntil } from "./peers/process.ts"
import { failureOf, openCluster, run } from "./servers.ts"

setDefaultTimeout(60_000)

const TIMEOUT_MS = 700

const endpointOf = (text: string): Endpoint => Either.getOrThrow(parseEndpoint(text))

/** Both ways to a server, each with its error. */
const ways = [
  [
    "probe",
    (endpoint: string) =>
      Effect.runPromise(Effect.flip(probe(endpointOf(endpoint), { timeoutMs: TIMEOUT_MS }))),
  ],
  [
    "open",
    (endpoint: string) => failureOf(openCluster([endpoint], { connectTimeoutMs: TIMEOUT_MS })),
  ],
] as const

/** Of user and system, since the process began. */
const cpuSeconds = (pid: number): number => {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /, "")
    .split(" ")
  const ticksPerSecond = 100
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond
}

const bytes = (...values: ReadonlyArray<number>): Uint8Array => Uint8Array.from(values)
const text = (value: string): Uint8Array => new TextEncoder().encode(value)

interface Case {
  readonly title: string
  readonly answers: Answers
  readonly error: Readonly<Record<string, string>>
  readonly says: string
}

const withHello = (hello: () => Answer): Answers => ({ ...goodAnswers, [Command.HELLO]: hello })

const cases: ReadonlyArray<Case> = [
  {
    title: "speaks a version that no release has",
    answers: withHello(() => helloOf(6, 1, 0)),
    error: { _tag: "HandshakeError", reason: "version" },
    says: "the server speaks protocol 6.1.0",
  },
  {
    title: "speaks a newer version",
    answers: withHello(() => helloOf(9, 0, 0)),
    error: { _tag: "HandshakeError", reason: "version" },
    says: "the server speaks protocol 9.0.0, which is llama.cpp v1.0's",
  },
  {
    title: "is a web server",
    answers: withHello(() => text("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")),
    error: { _tag: "HandshakeError", reason: "not-a-server" },
    says: "not a ggml RPC server",
  },
  {
    title: "announces a huge answer",
    answers: withHello(() => bytes(255, 255, 255, 255, 255, 255, 255, 255, 7, 0, 0)),
    error: { _tag: "HandshakeError", reason: "not-a-server" },
    says: "not a ggml RPC server",
  },
  {
    title: "closes at once",
    answers: withHello(() => "close"),
    error: { _tag: "HandshakeError", reason: "closed" },
    says: "It may serve as many clients as it is allowed to",
  },
  {
    title: "never answers",
    answers: withHello(() => "nothing"),
    error: { _tag: "HandshakeError", reason: "busy" },
    says: "did not answer within 0.7 s",
  },
  {
    title: "greets shortly and waits",
    answers: withHello(() => text("+OK\r\n")),
    error: { _tag: "HandshakeError", reason: "busy" },
    says: "did not answer within 0.7 s",
  },
  {
    title: "stops in the middle of HELLO",
    answers: withHello(() => helloOf(7, 0, 0).subarray(0, 20)),
    error: { _tag: "HandshakeError", reason: "busy" },
    says: "did not answer within 0.7 s",
  },
  {
    // An old server closes without a byte; one that began to answer is not asked again in the old form.
    title: "closes in the middle of HELLO",
    answers: withHello(() => ({ last: helloOf(7, 0, 0).subarray(0, 20) })),
    error: { _tag: "HandshakeError", reason: "not-a-server" },
    says: "it closed the connection in the middle of",
  },
  {
    title: "closes in the middle of a size",
    answers: withHello(() => ({ last: bytes(28, 0, 0) })),
    error: { _tag: "HandshakeError", reason: "not-a-server" },
    says: "it closed the connection in the middle of",
  },
  {
    title: "stops in the middle of a later answer",
    answers: { ...goodAnswers, [Command.DEVICE_COUNT]: () => bytes(4, 0, 0, 0) },
    error: { _tag: "HandshakeError", reason: "busy" },
    says: "did not answer within 0.7 s",
  },
  {
    title: "does not tell its memory",
    answers: { ...goodAnswers, [Command.GET_DEVICE_MEMORY]: () => "nothing" },
    error: { _tag: "HandshakeError", reason: "busy" },
    says: "did not answer within 0.7 s",
  },
  {
    title: "says HELLO and no more",
    answers: { [Command.HELLO]: () => helloOf(7, 0, 0) },
    error: { _tag: "HandshakeError", reason: "busy" },
    says: "did not answer within 0.7 s",
  },
  {
    title: "has no device",
    answers: {
      ...goodAnswers,
      [Command.DEVICE_COUNT]: () => encodeResponse(Command.DEVICE_COUNT, { deviceCount: 0 }),
    },
    error: { _tag: "HandshakeError", reason: "no-devices" },
    says: "the server offers no device",
  },
  {
    title: "closes later",
    answers: { ...goodAnswers, [Command.DEVICE_COUNT]: () => "close" },
    error: { _tag: "ServerLostError", during: "DEVICE_COUNT" },
    says: "it closed the connection",
  },
  {
    title: "answers a later command with another size",
    answers: {
      ...goodAnswers,
      [Command.DEVICE_COUNT]: () => bytes(5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0),
    },
    error: { _tag: "ServerLostError", during: "DEVICE_COUNT" },
    says: "another size",
  },
  {
    title: "claims to have millions of devices",
    answers: {
      ...goodAnswers,
      [Command.DEVICE_COUNT]: () => encodeResponse(Command.DEVICE_COUNT, { deviceCount: 4e9 }),
    },
    error: { _tag: "HandshakeError", reason: "not-a-server" },
    says: "4000000000 devices",
  },
]

describe.each(ways)("%s: a server that", (_, failWith) => {
  test.each(cases.map((example) => [example.title, example] as const))(
    "%s",
    async (_, { answers, error, says }) => {
      using server = startFakeServer(answers)
      const started = performance.now()
      const found = await failWith(server.endpoint)
      expect(found).toMatchObject({ ...error, endpoint: server.endpoint })
      expect(found.message).toContain(says)
      expect(found.message).toContain(server.endpoint)
      expect(performance.now() - started).toBeLessThan(10_000)
    },
  )

  test("is not there", async () => {
    const endpoint = `127.0.0.1:${freePort()}`
    const found = await failWith(endpoint)
    expect(found).toMatchObject({ _tag: "ConnectError", reason: "refused", endpoint })
  })

  test("lies behind a firewall", async () => {
    await using port = await startSilentPort()
    const started = performance.now()
    const found = await failWith(port.endpoint)
    expect(found).toMatchObject({ _tag: "ConnectError", reason: "timeout" })
    expect(found.message).toContain(port.endpoint)
    // The system itself gives up after two minutes.
    expect(performance.now() - started).toBeLessThan(10_000)
  })

  test("has a name that nobody knows", async () => {
    const found = await failWith("no-such-host.invalid:50052")
    expect(found).toMatchObject({ _tag: "ConnectError", reason: "unresolved" })
  })
})

/** What a server of an older version answers; it hangs up on today's HELLO. */
const oldAnswers = (version: Version, spec: ProtocolSpec): Answers => ({
  ...goodAnswers,
  [Command.HELLO]: () =>
    encodeResponse(Command.HELLO, { ...version, extension: 0, connCaps: new Uint8Array(24) }, spec),
})

const specOf = (name: string): ProtocolSpec => {
  const spec = findVersion(name)
  if (spec === undefined) throw new Error(`there is no version ${name}`)
  return spec
}

describe("an old server", () => {
  test("that hangs up on today's HELLO is asked again in the old form", async () => {
    const spec = specOf("3.5.0")
    using server = startFakeServer(oldAnswers(spec.version, spec), spec)
    const probed = await Effect.runPromise(probe(endpointOf(server.endpoint)))
    expect(probed).toMatchObject({ version: spec.version, kind: "llama.cpp" })
    const servers = await run(
      Effect.map(openCluster([server.endpoint]), (cluster) => cluster.servers),
    )
    expect(servers).toEqual([{ endpoint: server.endpoint, kind: "llama.cpp", version: "3.5.0" }])
    expect(server.commands.filter((command) => command === Command.HELLO)).toHaveLength(2)
  })

  test("before there was a count of devices is one device", async () => {
    const spec = specOf("2.0.0")
    using server = startFakeServer(oldAnswers(spec.version, spec), spec)
    const probed = await Effect.runPromise(probe(endpointOf(server.endpoint)))
    expect(probed.devices).toHaveLength(1)
    expect(server.commands).not.toContain(Command.DEVICE_COUNT)
  })

  test.each(ways)(
    "%s: of a version that no release has is refused in one sentence",
    async (_, failWith) => {
      const version = { major: 3, minor: 9, patch: 1 }
      const spec = specOf("3.5.0")
      using server = startFakeServer(oldAnswers(version, spec), spec)
      const found = await failWith(server.endpoint)
      expect(found).toMatchObject({ _tag: "HandshakeError", reason: "version" })
      expect(found.message).toContain("the server speaks protocol 3.9.1")
    },
  )

  /** Every question about its numbers is answered with this byte over and over. */
  const vague = (spec: ProtocolSpec, fill: number): Answers => ({
    ...oldAnswers(spec.version, spec),
    [Command.ALLOC_BUFFER]: () =>
      encodeResponse(Command.ALLOC_BUFFER, { remotePtr: 1n, remoteSizeBytes: 4096n }),
    [Command.BUFFER_GET_BASE]: () => encodeResponse(Command.BUFFER_GET_BASE, { basePtr: 4096n }),
    [Command.GRAPH_COMPUTE]: () => encodeResponse(Command.GRAPH_COMPUTE, { status: 0 }, spec),
    [Command.GET_TENSOR]: () =>
      encodeResponse(Command.GET_TENSOR, { data: new Uint8Array(32).fill(fill) }),
    [Command.FREE_BUFFER]: () => new Uint8Array(8),
  })

  test("that does not show its numbers is used with a warning, which says what to do", async () => {
    const spec = specOf("3.0.0")
    using server = startFakeServer(vague(spec, 0x44), spec)
    const [found] = await run(
      Effect.map(openCluster([server.endpoint]), (cluster) => cluster.servers),
    )
    expect(found?.warning).toContain(`--remote-build ${server.endpoint}=N`)
    expect(found?.warning).toContain("90, 94, 95")
  })

  test("is not asked for its numbers when the user says them", async () => {
    const spec = specOf("3.0.0")
    using server = startFakeServer(vague(spec, 0x44), spec)
    const endpoint = { ...endpointOf(server.endpoint), operationCount: 95 }
    const servers = await run(
      Effect.map(
        Cluster.open({ endpoints: [endpoint], localDevices: [] }),
        (cluster) => cluster.servers,
      ),
    )
    expect(servers).toEqual([{ endpoint: server.endpoint, kind: "llama.cpp", version: "3.0.0" }])
    expect(server.commands).not.toContain(Command.GRAPH_COMPUTE)
    const wrong = { ...endpoint, operationCount: 101 }
    const error = await failureOf(Cluster.open({ endpoints: [wrong], localDevices: [] }))
    expect(error.message).toContain("whose builds have 90, 94, 95 operations, not 101")
  })

  test("that ends over a question is not asked it again, the error says how", async () => {
    const spec = specOf("3.6.0")
    const answers = { ...vague(spec, 0), [Command.GRAPH_COMPUTE]: () => "close" as const }
    using server = startFakeServer(answers, spec)
    const error = await failureOf(openCluster([server.endpoint]))
    expect(error).toMatchObject({ _tag: "ServerLostError" })
    expect(error.message).toContain(`--remote-build ${server.endpoint}=N`)
  })
})

/** Ours, of the highest level that there can be, with a flag that has no meaning yet; `server` and `domain` fill its names. */
const oursAnswers = (server: number, domain: number): Answers => ({
  ...withHello(() => {
    const hello = helloOf(7, 0, 0)
    hello[8 + 3] = 0x8f
    return hello
  }),
  [ExtensionCommand.MEMORY_DOMAIN]: () =>
    encodeExtensionResponse("MEMORY_DOMAIN", {
      server: new Uint8Array(16).fill(server),
      domain: new Uint8Array(16).fill(domain),
    }),
})

test("a server is taken with an extension level that is not known yet", async () => {
  using server = startFakeServer(oursAnswers(1, 2))
  const probed = await Effect.runPromise(probe(endpointOf(server.endpoint)))
  expect(probed).toEqual({
    endpoint: server.endpoint,
    version: { major: 7, minor: 0, patch: 0 },
    kind: "ggml-rpc",
    name: "01".repeat(16),
    address: "127.0.0.1",
    devices: [
      { index: 0, freeBytes: 512 * 2 ** 20, totalBytes: 1024 * 2 ** 20, domain: "02".repeat(16) },
    ],
  })
  const devices = await run(
    Effect.map(openCluster([server.endpoint]), (cluster) => cluster.devices),
  )
  expect(devices).toMatchObject([
    { name: "RPC0", place: server.endpoint, freeBytes: 512 * 2 ** 20, memory: "02".repeat(16) },
  ])
  // Upstream would act on capabilities.
  const known = [...Object.keys(goodAnswers).map(Number), ExtensionCommand.MEMORY_DOMAIN]
  expect(new Set(server.commands).difference(new Set(known))).toEqual(new Set())
})

describe("memory of a host", () => {
  /** An older one of ours: MEMORY_DOMAIN came with level 3. */
  const olderAnswers: Answers = { ...goodAnswers, [Command.HELLO]: () => helloOf(7, 0, 0, 2) }

  test("is asked of no server that does not know the question", async () => {
    using older = startFakeServer(olderAnswers)
    using upstream = startFakeServer(goodAnswers)
    const { endpoint } = older
    const opened = Effect.map(openCluster([endpoint, upstream.endpoint]), ({ devices }) => devices)
    for (const device of await run(opened)) expect(device).not.toHaveProperty("memory")
    const probed = await Effect.runPromise(probe(endpointOf(endpoint)))
    expect(probed).not.toHaveProperty("name")
    expect(probed.kind).toBe("ggml-rpc")
    for (const server of [older, upstream]) {
      expect(server.commands).not.toContain(ExtensionCommand.MEMORY_DOMAIN)
    }
  })

  test("is counted once for two servers", async () => {
    using first = startFakeServer(oursAnswers(1, 9))
    using second = startFakeServer(oursAnswers(2, 9))
    const opened = Effect.map(
      openCluster([first.endpoint, second.endpoint]),
      (cluster) => cluster.devices,
    )
    const [one, two] = await run(opened)
    expect(one!.memory).toBe("09".repeat(16))
    expect(two!.memory).toBe(one!.memory!)
  })

  test("of one server under two names is an error that names both", async () => {
    using first = startFakeServer(oursAnswers(1, 9))
    using other = startFakeServer(oursAnswers(1, 9))
    const error = await failureOf(openCluster([first.endpoint, other.endpoint]))
    expect(error._tag).toBe("DuplicateServerError")
    expect(error.message).toBe(
      `${other.endpoint} and ${first.endpoint} are one server, whose memory can be used once: name it once with --rpc.`,
    )
  })

  test("of one server of llama.cpp's too, which would not answer a second connection", async () => {
    using server = startFakeServer(goodAnswers)
    const other = server.endpoint.replace("127.0.0.1", "localhost")
    const error = await failureOf(openCluster([server.endpoint, other]))
    expect(error).toMatchObject({
      _tag: "DuplicateServerError",
      endpoint: other,
      first: server.endpoint,
    })
    // The second time it was not even greeted.
    expect(server.commands.filter((command) => command === Command.HELLO)).toHaveLength(1)
  })
})

describe("a server that refuses memory", () => {
  test("for the weights: an error that names it and the size", async () => {
    using server = startFakeServer({
      ...goodAnswers,
      [Command.ALLOC_BUFFER]: () =>
        encodeResponse(Command.ALLOC_BUFFER, { remotePtr: 0n, remoteSizeBytes: 0n }),
      [Command.GET_ALLOC_SIZE]: () =>
        encodeResponse(Command.GET_ALLOC_SIZE, { allocSizeBytes: 1n << 16n }),
    })
    const path = await ensureModel("tiny")
    const { error, later } = await run(
      Effect.gen(function* () {
        const cluster = yield* openCluster([server.endpoint])
        const plan = yield* cluster.plan(path, { threads: 1, contextSize: 256 })
        const failed = yield* Effect.either(cluster.load(plan))
        // It was that load's: the next request knows nothing of it.
        const next = yield* Effect.either(cluster.plan(path, { threads: 1, contextSize: 256 }))
        return { error: Either.isLeft(failed) ? failed.left : undefined, later: next._tag }
      }),
    )
    expect(later).toBe("Right")
    expect(error).toMatchObject({ _tag: "RemoteMemoryError", endpoint: server.endpoint })
    expect(error?.message).toContain("RPC0")
  })
})

test("a server that says that its sizes are plain is not asked for them", async () => {
  const path = await ensureModel("tiny")
  const { PLAIN_SIZES } = HelloExtension
  const FLAGS_LEVEL = 1
  const questionsTo = async (extension: number): Promise<number> => {
    using server = startFakeServer({
      ...goodAnswers,
      [Command.HELLO]: () => helloOf(7, 0, 0, extension),
      [Command.GET_ALLOC_SIZE]: () =>
        encodeResponse(Command.GET_ALLOC_SIZE, { allocSizeBytes: 0n }),
    })
    await run(
      Effect.gen(function* () {
        const cluster = yield* openCluster([server.endpoint])
        return yield* cluster.plan(path, { threads: 1, contextSize: 256 })
      }),
    )
    return server.commands.filter((command) => command === Command.GET_ALLOC_SIZE).length
  }
  expect(await questionsTo(FLAGS_LEVEL)).toBeGreaterThan(0)
  expect(await questionsTo(FLAGS_LEVEL | PLAIN_SIZES)).toBe(0)
  // Upstream's byte is 0: flags mean nothing without the level.
  expect(await questionsTo(PLAIN_SIZES)).toBeGreaterThan(0)
})

describe("the engine", () => {
  const load = (path: string, options: Cluster.PlanOptions = {}) =>
    Effect.gen(function* () {
      const cluster = yield* openCluster([])
      const plan = yield* cluster.plan(path, { threads: 1, ...options })
      return { cluster, model: yield* cluster.load(plan) }
    })

  test("that is killed fails what runs, and all that follows", async () => {
    const path = await ensureModel("q8_0")
    await run(
      Effect.gen(function* () {
        const { cluster, model } = yield* load(path)
        const fiber = yield* Effect.fork(
          Effect.either(Stream.runDrain(model.generate([1, 2], { ignoreEos: true }))),
        )
        yield* Effect.sleep(200)
        process.kill(cluster.enginePid, "SIGKILL")
        const result = yield* Fiber.join(fiber)
        expect(Either.isLeft(result) && result.left._tag).toBe("EngineEndedError")
        const later = yield* Effect.either(model.evaluate([1]))
        expect(Either.isLeft(later) && later.left.message).toContain("SIGKILL")
      }),
    )
  })

  test("that died a moment ago fails a request, too, before its end was noticed", async () => {
    const path = await ensureModel("tiny")
    await run(
      Effect.gen(function* () {
        const { cluster, model } = yield* load(path)
        process.kill(cluster.enginePid, "SIGKILL")
        // No turn of the event loop, which would bring the news.
        Bun.sleepSync(300)
        const result = yield* Effect.either(model.evaluate([1]))
        expect(Either.isLeft(result) && result.left.message).toContain("SIGKILL")
      }),
    )
  })

  test("answers requests in turn, however many come at once", async () => {
    const path = await ensureModel("tiny")
    const found = await run(
      Effect.flatMap(load(path), ({ model }) =>
        Effect.all(
          Array.from({ length: 12 }, (_, index) =>
            index % 3 === 0
              ? Effect.map(model.tokenize(`word${index}`), (ids) => ids.length)
              : Effect.map(model.evaluate([1, index + 2]), ({ values }) => values[512]!),
          ),
          { concurrency: "unbounded" },
        ),
      ),
    )
    const again = await run(
      Effect.flatMap(load(path), ({ model }) =>
        Effect.forEach([1, 2, 4, 5], (index) =>
          Effect.map(model.evaluate([1, index + 2]), ({ values }) => values[512]!),
        ),
      ),
    )
    expect([found[1]!, found[2]!, found[4]!, found[5]!]).toEqual(again)
  })

  test("sends large outputs whole, also to a host that is busy", async () => {
    const path = await ensureModel("mixed")
    const tokens = Array.from({ length: 512 }, (_, index) => (index * 13) % 8192)
    const { rowCount, values } = await run(
      Effect.flatMap(load(path), ({ model }) =>
        Effect.gen(function* () {
          const fiber = yield* Effect.fork(model.evaluate(tokens))
          yield* Effect.sleep(50)
          // 16 MB wait for this process, which looks away.
          Bun.sleepSync(1500)
          return yield* Fiber.join(fiber)
        }),
      ),
    )
    expect(rowCount).toBe(512)
    expect(values).toHaveLength(512 * 8192)
    expect(values.at(-1)).not.toBe(0)
  })

  test("whose request was interrupted gives the next one its own answer", async () => {
    const path = await ensureModel("mixed")
    await run(
      Effect.flatMap(load(path), ({ model }) =>
        Effect.gen(function* () {
          const tokens = Array.from({ length: 256 }, (_, index) => index)
          const fiber = yield* Effect.fork(model.evaluate(tokens))
          yield* Effect.sleep(20)
          yield* Fiber.interrupt(fiber)
          const { rowCount } = yield* model.evaluate([1, 2, 3])
          expect(rowCount).toBe(3)
        }),
      ),
    )
  })

  test("does not start a request that was interrupted while it waited", async () => {
    const path = await ensureModel("mixed")
    await run(
      Effect.flatMap(load(path), ({ cluster, model }) =>
        Effect.gen(function* () {
          const tokens = Array.from({ length: 512 }, (_, index) => index)
          yield* model.evaluate(tokens)
          const before = cpuSeconds(cluster.enginePid)
          yield* model.evaluate(tokens)
          const one = cpuSeconds(cluster.enginePid) - before
          const first = yield* Effect.fork(model.evaluate(tokens.slice(0, 8)))
          const given = yield* Effect.forEach([1, 2, 3, 4], () =>
            Effect.fork(model.evaluate(tokens)),
          )
          yield* Effect.sleep(1)
          yield* Effect.forEach(given, (fiber) => Fiber.interrupt(fiber))
          yield* Fiber.join(first)
          yield* model.evaluate([1])
          expect(cpuSeconds(cluster.enginePid) - before - one).toBeLessThan(2 * one)
        }),
      ),
    )
  })

  test("stops an evaluation that is interrupted, at its next batch", async () => {
    const path = await ensureModel("mixed")
    await run(
      Effect.flatMap(load(path, { batchSize: 32 }), ({ cluster, model }) =>
        Effect.gen(function* () {
          const tokens = Array.from({ length: 512 }, (_, index) => index)
          const before = cpuSeconds(cluster.enginePid)
          yield* model.evaluate(tokens)
          const whole = cpuSeconds(cluster.enginePid) - before
          const fiber = yield* Effect.fork(model.evaluate(tokens))
          yield* Effect.sleep(20)
          yield* Fiber.interrupt(fiber)
          expect((yield* model.evaluate([1])).rowCount).toBe(1)
          expect(cpuSeconds(cluster.enginePid) - before - whole).toBeLessThan(0.7 * whole)
        }),
      ),
    )
  })

  test("lets a generation go on when one behind it is interrupted", async () => {
    const path = await ensureModel("tiny")
    await run(
      Effect.flatMap(load(path), ({ model }) =>
        Effect.gen(function* () {
          const options = { maxTokens: 400, temp: 0, ignoreEos: true }
          const first = yield* Effect.fork(model.generateEach([1, 2], () => {}, options))
          const second = yield* Effect.fork(model.generateEach([3, 4], () => {}, options))
          yield* Effect.sleep(20)
          yield* Fiber.interrupt(second)
          const { stopReason, tokenCount } = yield* Fiber.join(first)
          expect({ stopReason, tokenCount }).toEqual({ stopReason: "token-limit", tokenCount: 400 })
          expect((yield* model.evaluate([1])).rowCount).toBe(1)
        }),
      ),
    )
  })

  test("keeps the model of one scope when another's failed load is cleaned up", async () => {
    const path = await ensureModel("tiny")
    await run(
      Effect.gen(function* () {
        const cluster = yield* openCluster([])
        const plan = yield* cluster.plan(path, { threads: 1 })
        const scope = yield* Scope.make()
        const refused = (load: ReturnType<typeof cluster.load>) =>
          Effect.map(Effect.either(load), (result) => Either.isLeft(result) && result.left._tag)
        const missing = cluster.load({ ...plan, path: "/nowhere/model.gguf" })
        expect(yield* Scope.extend(refused(missing), scope)).toBe("ModelError")
        const model = yield* cluster.load(plan)
        expect(yield* refused(cluster.load(plan))).toBe("ModelError")
        yield* Scope.close(scope, Exit.void)
        expect((yield* model.evaluate([1, 2])).rowCount).toBe(2)
      }),
    )
  })

  test("ends when its host's scope does, in the middle of work", async () => {
    const path = await ensureModel("q8_0")
    let pid = 0
    let closing = 0
    await run(
      Effect.gen(function* () {
        const { cluster, model } = yield* load(path)
        pid = cluster.enginePid
        yield* Effect.fork(Stream.runDrain(model.generate([1, 2], { ignoreEos: true })))
        yield* Effect.sleep(200)
        closing = performance.now()
      }),
    )
    // Closing did not have to wait for its patience to end.
    expect(performance.now() - closing).toBeLessThan(3000)
    const isGone = (): boolean => {
      try {
        process.kill(pid, 0)
        return false
      } catch {
        return true
      }
    }
    expect(await waitUntil(isGone, 2000)).toBe(true)
  })

  test("refuses a prompt that is longer than the context, and an empty one", async () => {
    const path = await ensureModel("tiny")
    const attempt = (tokens: ReadonlyArray<number>) =>
      failureOf(
        Effect.flatMap(load(path, { contextSize: 256 }), ({ model }) =>
          Stream.runDrain(model.generate(tokens, { maxTokens: 1 })),
        ),
      )
    const long = await attempt(Array.from({ length: 256 }, () => 1))
    expect(long._tag).toBe("ModelError")
    expect(long.message).toContain("the prompt has 256 tokens, but the context holds 256")
    const empty = await attempt([])
    expect(empty.message).toContain("the prompt has no tokens")
    const wrong = await attempt([1, 99_999])
    expect(wrong._tag).toBe("ModelError")
  })
})
