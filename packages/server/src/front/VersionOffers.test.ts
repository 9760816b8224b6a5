import { expect, test } from "bun:test"
import { formatVersion, offers } from "@ggml-rpc/protocol"
import { describeNews, parseSavedOffers, VersionOffers } from "./VersionOffers.ts"

const hungUp = { helloCaps: true, hasAsked: false }
const wentOn = { helloCaps: true, hasAsked: true }

const versionOf = (book: VersionOffers, address: string): string => {
  const offer = book.next(address)
  if ("pinned" in offer) throw new Error("nothing is pinned here")
  return formatVersion(offers(true)[offer.withCaps]!.version)
}

test("a client that hangs up is offered the next older version, until one works", () => {
  const book = new VersionOffers()
  const seen: string[] = []
  for (const outcome of [hungUp, hungUp, wentOn]) {
    seen.push(versionOf(book, "a"))
    book.ended("a", book.next("a"), outcome)
  }
  expect(seen).toEqual(["8.0.0", "7.0.0", "6.0.0"])
  // From then on, whatever else it does: clients end connections after HELLO all the time.
  book.ended("a", book.next("a"), hungUp)
  book.ended("a", book.next("a"), hungUp)
  expect(versionOf(book, "a")).toBe("6.0.0")
  expect(versionOf(book, "b")).toBe("8.0.0")
})

test("what works is kept over a restart, for its form of HELLO", () => {
  const book = new VersionOffers()
  book.ended("a", book.next("a"), hungUp)
  book.ended("a", book.next("a"), wentOn)
  book.ended("b", book.next("b"), wentOn)
  expect(book.save()).toEqual({ a: [1, 0] })
  const next = new VersionOffers(parseSavedOffers(JSON.stringify(book.save())))
  expect(next.next("a")).toEqual({ withCaps: 1, withoutCaps: 0 })
})

test("connections that began together count once", () => {
  const book = new VersionOffers()
  const offer = book.next("a")
  book.ended("a", offer, hungUp)
  book.ended("a", offer, hungUp)
  expect(versionOf(book, "a")).toBe("7.0.0")
})

test("after the last one it begins again, and says so", () => {
  const book = new VersionOffers()
  const news = offers(true).map(() => book.ended("a", book.next("a"), hungUp)!)
  expect(news.map(({ kind }) => kind)).toEqual(["next", "next", "next", "next", "nothing left"])
  expect(versionOf(book, "a")).toBe("8.0.0")
  expect(book.ended("a", book.next("a"), hungUp)).toBeUndefined()
  expect(describeNews("a", news[0]!)).toContain("--protocol 7.0")
  expect(describeNews("a", news[4]!)).toContain("speaks 9")
})

test("a client that comes much later is another one", () => {
  let now = 1_000_000
  const book = new VersionOffers({}, () => now)
  book.ended("a", book.next("a"), hungUp)
  now += 3_600_000
  expect(versionOf(book, "a")).toBe("8.0.0")
})

test("an updated client is noticed by its hang-ups", () => {
  let now = 1_000_000
  const book = new VersionOffers({ a: [2, 0] }, () => now)
  const starts = (count: number, msBetween: number): void => {
    for (let start = 0; start < count; start++) {
      now += msBetween
      book.ended("a", book.next("a"), hungUp)
    }
  }
  starts(20, 5)
  expect(versionOf(book, "a")).toBe("6.0.0")
  starts(1, 5000)
  expect(versionOf(book, "a")).toBe("5.0.0")
})

test("a file that says something else says nothing", () => {
  for (const text of ["", "[", "7", '{"a":[9,0]}', '{"a":["1",0]}', '{"a":1}']) {
    expect(parseSavedOffers(text)).toEqual({})
  }
})
