import { describe, expect, test } from "bun:test"
import { Effect, Either, Fiber } from "effect"
import { CANCEL_SLOTS } from "./Cancels.ts"
import * as EngineHost from "./EngineHost.ts"
import type { EngineRequest } from "./engine/messages.ts"
import type { ClusterError } from "./errors.ts"

const BUSY_MS = 400

/** Takes connections and says nothing: who opens it waits for its time to be up. */
const silentServer = () =>
  Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {}, error() {} } })

const withEngine = (
  work: (
    engine: EngineHost.EngineHost,
    busy: EngineRequest & { type: "open" },
  ) => Effect.Effect<void, ClusterError>,
): Promise<void> => {
  const server = silentServer()
  const busy = {
    type: "open",
    endpoints: [{ host: "127.0.0.1", port: server.port }],
    connectTimeoutMs: BUSY_MS,
    silenceMs: 0,
  } as const
  return Effect.runPromise(
    Effect.scoped(Effect.flatMap(EngineHost.make(), (engine) => work(engine, busy))),
  ).finally(() => server.stop(true))
}

const memory = { type: "memory" } as const
const measure = {
  type: "measure",
  path: "/nowhere/model.gguf",
  placement: { devices: [], unitCounts: [] },
  model: { mmap: true },
  context: {
    contextSize: 256,
    batchSize: 32,
    ubatchSize: 32,
    threads: 1,
    threadsBatch: 1,
    flashAttention: -1,
    typeK: 1,
    typeV: 1,
    embeddings: false,
    wholeBatch: false,
  },
} as const
const tokenize = { type: "tokenize", text: "a", addSpecial: true, parseSpecial: true } as const

const outcome = (answer: Effect.Effect<unknown, ClusterError>): Effect.Effect<string> =>
  Effect.map(Effect.either(answer), (end) => (Either.isLeft(end) ? end.left._tag : "done"))

describe("an engine", () => {
  test("fails a request alone, whatever is before and behind it", () =>
    withEngine((engine, busy) =>
      Effect.gen(function* () {
        const requests = [busy, memory, measure, memory, tokenize, memory]
        const outcomes = yield* Effect.all(
          requests.map((request) => outcome(engine.request(request))),
          { concurrency: "unbounded" },
        )
        expect(outcomes).toEqual([
          ...["HandshakeError", "done", "ModelError", "done", "EngineRequestError", "done"],
        ])
      }),
    ))

  test("never begins a request that was cancelled while it waited", () =>
    withEngine((engine, busy) =>
      Effect.gen(function* () {
        const first = yield* Effect.fork(outcome(engine.request(busy)))
        yield* Effect.sleep(50)
        const heard: Array<string> = []
        const begin = (request: EngineRequest, name: string) =>
          engine.begin(
            request,
            () => {},
            () => heard.push(name),
          )
        const cancel = begin(memory, "cancelled")
        begin(memory, "kept")
        expect(cancel()).toBe(true)
        expect(yield* Fiber.join(first)).toBe("HandshakeError")
        yield* engine.request(memory)
        expect(heard).toEqual(["kept"])
      }),
    ))

  test("tells what was asked of a model that nobody wants any more that it never began", () =>
    withEngine((engine, busy) =>
      Effect.gen(function* () {
        const first = yield* Effect.fork(outcome(engine.request(busy)))
        yield* Effect.sleep(50)
        const asked = yield* Effect.fork(Effect.either(engine.request(tokenize)))
        const other = yield* Effect.fork(outcome(engine.request(memory)))
        yield* Effect.sleep(1)
        yield* engine.cancelModel
        expect(yield* Fiber.join(first)).toBe("HandshakeError")
        expect(yield* Fiber.join(asked)).toMatchObject({
          left: { _tag: "EngineRequestError", reason: "cancelled" },
        })
        expect(yield* Fiber.join(other)).toBe("done")
      }),
    ))

  test("is not bothered by a cancel of what has ended", () =>
    withEngine((engine) =>
      Effect.gen(function* () {
        const { promise, resolve } = Promise.withResolvers<void>()
        const cancel = engine.begin(
          memory,
          () => {},
          () => resolve(),
        )
        yield* Effect.promise(() => promise)
        cancel()
        expect(yield* outcome(engine.request(memory))).toBe("done")
        // The ids come round to the same place.
        for (let count = 0; count < CANCEL_SLOTS; count++) {
          expect(yield* outcome(engine.request(tokenize))).toBe("EngineRequestError")
        }
      }),
    ))

  test("answers more requests at once than it can tell apart in a cancel", () =>
    withEngine((engine) =>
      Effect.gen(function* () {
        const count = 2 * CANCEL_SLOTS + 7
        const fibers = yield* Effect.forEach(Array.from({ length: count }), () =>
          Effect.fork(outcome(engine.request(tokenize))),
        )
        yield* Effect.sleep(1)
        // Held back, and dropped there.
        yield* Fiber.interrupt(fibers.at(-1)!)
        const ends = yield* Effect.forEach(fibers.slice(0, -1), (fiber) => Fiber.join(fiber))
        expect(new Set(ends)).toEqual(new Set(["EngineRequestError"]))
        expect(yield* outcome(engine.request(memory))).toBe("done")
      }),
    ))
})
