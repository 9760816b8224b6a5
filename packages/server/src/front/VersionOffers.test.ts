import { beforeEach, expect, test } from "bun:test"
import { findVersion, formatVersion, offers } from "@ggml-rpc/protocol"
import type { Offer } from "../session/offer.ts"
import {
  describeNews,
  parseSavedOffers,
  rememberedAddress,
  type SavedOffers,
  VersionOffers,
} from "./VersionOffers.ts"

let now: number
beforeEach(() => {
  now = 1_000_000
})

const bookOf = (saved?: SavedOffers): VersionOffers => new VersionOffers(saved, () => now)

/** The version that a client's connection is offered, which then ends. */
const connect = (book: VersionOffers, address: string, hasAsked: boolean): string => {
  const offer = book.next(address)
  if ("pinned" in offer) throw new Error("nothing is pinned here")
  book.ended(address, offer, { helloCaps: true, hasAsked })
  return formatVersion(offers(true)[offer.withCaps]!.version)
}

/** A client of one version is started, and ends unless it is offered that one: what it was offered. */
const start = (book: VersionOffers, address: string, own: string): string => {
  now += 5000
  const offer = book.next(address)
  if ("pinned" in offer) throw new Error("nothing is pinned here")
  const offered = formatVersion(offers(true)[offer.withCaps]!.version)
  book.ended(address, offer, { helloCaps: true, hasAsked: offered === own })
  return offered
}

test("a client that hangs up is offered the next older version, until one works", () => {
  const book = bookOf()
  const seen = [1, 2, 3, 4].map(() => start(book, "a", "6.0.0"))
  expect(seen).toEqual(["8.0.0", "7.0.0", "6.0.0", "6.0.0"])
  expect(start(book, "b", "8.0.0")).toBe("8.0.0")
})

test("connections of a run that end after HELLO mean nothing", () => {
  const book = bookOf()
  expect(connect(book, "a", true)).toBe("8.0.0")
  for (let index = 0; index < 20; index++) {
    now += 20
    expect(connect(book, "a", false)).toBe("8.0.0")
  }
  now += 10_000
  expect(connect(book, "a", true)).toBe("8.0.0")
})

test("connections that began together are one refusal", () => {
  const book = bookOf()
  const offer = book.next("a")
  book.ended("a", offer, { helloCaps: true, hasAsked: false })
  book.ended("a", offer, { helloCaps: true, hasAsked: false })
  expect(connect(book, "a", true)).toBe("7.0.0")
})

test("what works is kept over a restart, for its form of HELLO", () => {
  const book = bookOf()
  start(book, "a", "7.0.0")
  start(book, "a", "7.0.0")
  start(book, "b", "8.0.0")
  expect(book.save()).toEqual({ a: ["7.0", "3.6"] })
  const next = bookOf(parseSavedOffers(JSON.stringify(book.save())))
  expect(next.next("a")).toEqual({ withCaps: 1, withoutCaps: 0 })
})

test("an updated client finds its version, and the old one is forgotten", () => {
  const book = bookOf({ a: ["7.0", "3.6"] })
  expect(start(book, "a", "8.0.0")).toBe("7.0.0")
  expect(start(book, "a", "8.0.0")).toBe("8.0.0")
  expect(start(book, "a", "8.0.0")).toBe("8.0.0")
  expect(book.save()).toEqual({ a: ["8.0", "3.6"] })
})

test("one that takes anything does not keep another at its address from its version", () => {
  const book = bookOf()
  const seen: string[] = []
  for (let round = 0; round < 5; round++) {
    now += 5000
    connect(book, "a", true)
    seen.push(start(book, "a", "7.0.0"))
  }
  expect(seen.slice(-2)).toEqual(["7.0.0", "7.0.0"])
})

test("after the last one it begins again, and says so once", () => {
  const book = bookOf()
  const news = Array.from({ length: 3 * offers(true).length }, () =>
    book.ended("a", book.next("a"), { helloCaps: true, hasAsked: false }),
  ).filter((found) => found !== undefined)
  expect(news.map(({ kind }) => kind)).toEqual(["next", "next", "next", "next", "nothing left"])
  expect(start(book, "a", "8.0.0")).toBe("8.0.0")
  expect(describeNews("a", news[0]!)).toContain("--protocol 7.0")
  expect(describeNews("a", news[4]!)).toContain("newer than this server")
})

test("a pinned version that is older than its client's HELLO is said, unless the client goes on", () => {
  const book = bookOf()
  const pinned = findVersion("3.6.1")!
  const ended = (offer: Offer, helloCaps: boolean, hasAsked: boolean) =>
    book.ended("a", offer, { helloCaps, hasAsked })
  expect(ended({ pinned }, true, true)).toBeUndefined()
  expect(ended({ pinned }, false, false)).toBeUndefined()
  expect(ended({ pinned: findVersion("7.0.0")! }, true, false)).toBeUndefined()
  const news = ended({ pinned }, true, false)
  expect(describeNews("a", news!)).toContain("hung up when it was told protocol 3.6.1")
  expect(book.next("a")).toEqual({ withCaps: 0, withoutCaps: 0 })
})

test("a client that comes much later is another one", () => {
  const book = bookOf()
  start(book, "a", "6.0.0")
  now += 3_600_000
  expect(start(book, "a", "6.0.0")).toBe("8.0.0")
})

test("a version that is not offered any more is forgotten", () => {
  expect(start(bookOf({ a: ["1.0", "9.9"] }), "a", "8.0.0")).toBe("8.0.0")
})

test("a file that says something else says nothing", () => {
  for (const text of ["", "[", "7", '{"a":[9,0]}', '{"a":["1",0]}', '{"a":1}']) {
    expect(parseSavedOffers(text)).toEqual({})
  }
})

test("a host of IPv6 is one address, whichever of its network it uses", () => {
  expect(rememberedAddress("10.0.0.7")).toBe("10.0.0.7")
  expect(rememberedAddress("[fd00:1:2:3:4:5:6:7]")).toBe("fd00:1:2:3::/64")
  expect(rememberedAddress("fd00:1:2:3::9")).toBe("fd00:1:2:3::/64")
  expect(rememberedAddress("::1")).toBe("0:0:0:0::/64")
})
