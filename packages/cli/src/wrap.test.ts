import { expect, test } from "bun:test"
import { StreamWrap, wrap } from "./wrap.ts"

test("wrap breaks between words and keeps line breaks and indentation", () => {
  expect(wrap("one two three", 7)).toEqual(["one two", "three"])
  expect(wrap("unbreakable", 4)).toEqual(["unbreakable"])
  expect(wrap("a list:\n  first item\n  b", 9)).toEqual(["a list:", "  first", "  item", "  b"])
  expect(wrap("", 10)).toEqual([""])
  expect(wrap("a b", Number.POSITIVE_INFINITY)).toEqual(["a b"])
})

test("StreamWrap breaks between words of a text that comes in pieces", () => {
  const stream = new StreamWrap(10)
  const pieces = ["You", " are", " watching", " one", "\n\nThe", " layers", "x", " a b  c", " "]
  expect(pieces.map((piece) => stream.push(piece)).join("")).toBe(
    "You are\nwatching\none\n\nThe layersx\na b  c ",
  )
  // Without a limit nothing changes.
  const free = new StreamWrap(Number.POSITIVE_INFINITY)
  expect(pieces.map((piece) => free.push(piece))).toEqual(pieces)
})
