import { expect, test } from "bun:test"
import { Cause, Chunk, Effect, Either, Exit, Fiber, Stream } from "effect"
import type { EngineHost } from "./EngineHost.ts"
import type { EngineEvent, GenerateStats, TokenData } from "./engine/messages.ts"
import { EngineEndedError } from "./errors.ts"
import { type GeneratedToken, generateEach, tokenStream } from "./generateEach.ts"

const stats: GenerateStats = {
  promptTokenCount: 3,
  cachedTokenCount: 0,
  promptMs: 1,
  tokenCount: 2,
  generateMs: 1,
  stopReason: "token-limit",
  slot: 0,
}

const request = {
  type: "generate",
  tokens: [1, 2, 3],
  maxTokens: -1,
  sampler: {},
  settings: {},
} as const

/** An engine that says what the test says, and ends when it is cancelled. */
class ScriptedEngine implements Pick<EngineHost, "begin"> {
  cancelled = 0
  #onEvent: (event: EngineEvent) => void = () => {}
  #onEnd: (end: never) => void = () => {}

  readonly begin: EngineHost["begin"] = (_, onEvent, onEnd) => {
    this.#onEvent = onEvent
    this.#onEnd = onEnd as (end: never) => void
    return () => {
      this.cancelled++
      this.tokens([[99, "too late"]])
      setTimeout(() => this.end("", [[100, "later still"]]), 1)
      return false
    }
  }

  tokens(tokens: ReadonlyArray<TokenData>): void {
    this.#onEvent({ type: "generating", tokens })
  }

  end(text: string, tokens: ReadonlyArray<TokenData> = []): void {
    this.#finish(
      Either.right({ event: { type: "generated", tokens, text, stats }, data: new Uint8Array(0) }),
    )
  }

  fail(): void {
    this.#finish(Either.left(new EngineEndedError({ reason: "killed", detail: "" })))
  }

  #finish(end: Either.Either<unknown, EngineEndedError>): void {
    this.#onEnd(end as never)
  }
}

const started = (onToken: (token: GeneratedToken) => void) => {
  const engine = new ScriptedEngine()
  const fiber = Effect.runFork(generateEach(engine, request, onToken))
  return { engine, end: () => Effect.runPromise(Fiber.await(fiber)), fiber }
}

const streamed = (onStats: (given: GenerateStats) => void) => {
  const engine = new ScriptedEngine()
  return {
    engine,
    stream: tokenStream((onToken) => generateEach(engine, request, onToken), onStats),
  }
}

test("tokens come at once and in order, what is left of a character and the stats last", async () => {
  const seen: Array<unknown> = []
  const { engine, end } = started((token) => seen.push(token))
  await Bun.sleep(1)
  engine.tokens([[1, "a"]])
  expect(seen).toEqual([{ id: 1, text: "a" }])
  engine.tokens([
    [2, ""],
    [3, "bc"],
  ])
  engine.end("…", [[4, "d"]])
  expect(await end()).toEqual(Exit.succeed(stats))
  expect(seen.slice(1)).toEqual([
    { id: 2, text: "" },
    { id: 3, text: "bc" },
    { id: 4, text: "d" },
    { id: -1, text: "…" },
  ])
  expect(engine.cancelled).toBe(0)
})

test("a failure of the engine is the generation's, and leaves nothing to cancel", async () => {
  const { engine, end } = started(() => {})
  await Bun.sleep(1)
  engine.fail()
  expect(await end()).toMatchObject(Exit.fail({ _tag: "EngineEndedError" }))
  expect(engine.cancelled).toBe(0)
})

test("an interruption stops the engine, waits for nothing, and gives no token more", async () => {
  const seen: Array<unknown> = []
  const { engine, end, fiber } = started((token) => seen.push(token))
  await Bun.sleep(1)
  engine.tokens([[1, "a"]])
  await Effect.runPromise(Fiber.interrupt(fiber))
  expect(Exit.isInterrupted(await end())).toBe(true)
  await Bun.sleep(5)
  expect(engine.cancelled).toBe(1)
  expect(seen).toEqual([{ id: 1, text: "a" }])
})

test.each(["generating", "generated"])(
  "what the callback throws at a %s event is a defect",
  async (during) => {
    const mistake = new Error("a mistake of the caller's")
    const { engine, end } = started(() => {
      throw mistake
    })
    await Bun.sleep(1)
    if (during === "generated") engine.end("", [[1, "a"]])
    else engine.tokens([[1, "a"]])
    const exit = await end()
    expect(Exit.isFailure(exit) && [...Cause.defects(exit.cause)]).toEqual([mistake])
    expect(engine.cancelled).toBe(1)
  },
)

test("as a stream: the same tokens, however late they are taken, then the stats", async () => {
  const seen: Array<unknown> = []
  const { engine, stream } = streamed((given) => seen.push(given))
  const ended = Effect.runPromise(
    Stream.runForEach(stream, (token) =>
      Effect.delay(
        Effect.sync(() => seen.push(token.text)),
        2,
      ),
    ),
  )
  await Bun.sleep(5)
  engine.tokens([
    [1, "a"],
    [2, "b"],
  ])
  await Bun.sleep(1)
  engine.tokens([[3, "c"]])
  engine.end("d")
  await ended
  expect(seen.filter((item) => item !== stats)).toEqual(["a", "b", "c", "d"])
  expect(seen).toContain(stats)
})

test("as a stream: what the callback for the stats throws ends it as a defect", async () => {
  const mistake = new Error("a mistake of the caller's")
  const { engine, stream } = streamed(() => {
    throw mistake
  })
  const ended = Effect.runPromiseExit(Stream.runDrain(stream))
  await Bun.sleep(5)
  engine.end("", [[1, "a"]])
  const exit = await ended
  expect(Exit.isFailure(exit) && [...Cause.defects(exit.cause)]).toEqual([mistake])
})

test("as a stream: a failure comes after the tokens that were computed before it", async () => {
  const seen: Array<string> = []
  const { engine, stream } = streamed(() => seen.push("stats"))
  const ended = Effect.runPromise(
    Effect.either(
      Stream.runForEach(stream, ({ text }) =>
        Effect.delay(
          Effect.sync(() => seen.push(text)),
          2,
        ),
      ),
    ),
  )
  await Bun.sleep(5)
  engine.tokens([[1, "a"]])
  engine.fail()
  expect(await ended).toMatchObject({ _tag: "Left", left: { _tag: "EngineEndedError" } })
  expect(seen).toEqual(["a"])
})

test("as a stream: who takes no more stops the engine", async () => {
  const { engine, stream } = streamed(() => {})
  const taken = Effect.runPromise(Stream.runCollect(Stream.take(stream, 1)))
  await Bun.sleep(5)
  engine.tokens([
    [1, "a"],
    [2, "b"],
  ])
  expect(Chunk.toReadonlyArray(await taken)).toEqual([{ id: 1, text: "a" }])
  expect(engine.cancelled).toBe(1)
})
