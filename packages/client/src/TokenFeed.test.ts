import { expect, test } from "bun:test"
import { Effect, Either, Stream } from "effect"
import type { GenerateStats, TokenData } from "./engine/messages.ts"
import { EngineError } from "./errors.ts"
import { TokenFeed } from "./TokenFeed.ts"

const stats: GenerateStats = {
  promptTokenCount: 3,
  promptMs: 1,
  tokenCount: 2,
  generateMs: 1,
  stopReason: "token-limit",
}

const generated = (text: string, tokens: ReadonlyArray<TokenData> = []) =>
  Either.right({
    event: { type: "generated" as const, tokens, text, stats },
    data: new Uint8Array(0),
  })

/** What comes out of a feed, in order. */
const collect = (feed: TokenFeed, seen: Array<unknown>) =>
  Effect.runPromise(
    Effect.either(
      Stream.runForEach(Stream.fromChannel(feed.tokens), (token) =>
        Effect.sync(() => seen.push(token)),
      ),
    ),
  )

test("tokens come in order, before and after they are waited for, and the stats last", async () => {
  const seen: Array<unknown> = []
  const feed = new TokenFeed((given) => seen.push(given))
  feed.push([[1, "a"]])
  const ended = collect(feed, seen)
  await Bun.sleep(1)
  feed.push([
    [2, ""],
    [3, "bc"],
  ])
  await Bun.sleep(1)
  expect(feed.hasFinished).toBe(false)
  feed.push([[4, "d"]])
  feed.finish(generated("…", [[5, "e"]]))
  expect(Either.isRight(await ended)).toBe(true)
  expect(seen).toEqual([
    { id: 1, text: "a" },
    { id: 2, text: "" },
    { id: 3, text: "bc" },
    { id: 4, text: "d" },
    { id: 5, text: "e" },
    { id: -1, text: "…" },
    stats,
  ])
})

test("a failure comes after the tokens that were computed before it", async () => {
  const seen: Array<unknown> = []
  const feed = new TokenFeed(() => seen.push("stats"))
  feed.push([[1, "a"]])
  feed.finish(Either.left(new EngineError({ detail: "signal SIGKILL" })))
  const end = await collect(feed, seen)
  expect(Either.isLeft(end) && end.left).toMatchObject({ _tag: "EngineError" })
  expect(seen).toEqual([{ id: 1, text: "a" }])
})

test("a taker that is interrupted loses no token", async () => {
  const feed = new TokenFeed(() => {})
  await Effect.runPromise(Effect.timeoutOption(feed.take, 5))
  feed.push([[1, "a"]])
  const seen: Array<unknown> = []
  feed.finish(generated(""))
  await collect(feed, seen)
  expect(seen).toEqual([{ id: 1, text: "a" }])
})

test("the end can be waited for without taking anything", async () => {
  const feed = new TokenFeed(() => {})
  const waiting = Effect.runPromise(feed.finished)
  feed.push([[1, "a"]])
  feed.finish(generated(""))
  await waiting
  await Effect.runPromise(feed.finished)
})
