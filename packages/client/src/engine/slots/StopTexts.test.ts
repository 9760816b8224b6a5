import { expect, test } from "bun:test"
import { StopTexts } from "./StopTexts.ts"

/** What comes out of a text in pieces, and which stop text ended it. */
const run = (stops: ReadonlyArray<string>, pieces: ReadonlyArray<string>) => {
  const texts = new StopTexts(stops)
  const given: Array<string> = []
  for (const piece of pieces) {
    given.push(texts.push(piece))
    if (texts.found !== undefined) break
  }
  given.push(texts.finish())
  return { given, found: texts.found }
}

test("gives out at once what cannot be the beginning of a stop text", () => {
  expect(run(["STOP"], ["a", "bS", "c", "ST", "OX", "S"])).toEqual({
    given: ["a", "b", "Sc", "", "STOX", "", "S"],
    found: undefined,
  })
})

test("ends before the first one, and holds nothing back after it", () => {
  expect(run(["\n\n", "END"], ["one\n", "\ntwo END"])).toEqual({
    given: ["one", "", ""],
    found: "\n\n",
  })
  expect(run(["b", "abc"], ["xabcx"])).toEqual({ given: ["x", ""], found: "abc" })
})

test("finds the same in pieces of any size", () => {
  const text = "aabaabaaabaab, and aabaaab is the end"
  for (const stop of ["aabaaab", "aaab", "ab,", "e e", "end", "nothing"]) {
    const whole = text.includes(stop) ? text.slice(0, text.indexOf(stop)) : text
    for (let size = 1; size <= text.length; size++) {
      const pieces = text.match(new RegExp(`.{1,${size}}`, "g"))!
      expect(run([stop], pieces).given.join("")).toBe(whole)
    }
  }
})

test("without any, or with empty ones, lets all through", () => {
  expect(run([], ["a", "b"]).given).toEqual(["a", "b", ""])
  expect(run([""], ["a", "b"]).given).toEqual(["a", "b", ""])
})
