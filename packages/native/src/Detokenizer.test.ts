import { expect, test } from "bun:test"
import { Detokenizer } from "./Detokenizer.ts"

const text = "a ö 你 😀 é\uFEFF Zürich 👩‍👩‍👧 \u0000 end"

/** Tokens are indexes into pieces. */
const detokenize = (pieces: ReadonlyArray<Uint8Array>): ReadonlyArray<string> => {
  const detokenizer = new Detokenizer((token) => pieces[token]!)
  return [...pieces.keys()].map((token) => detokenizer.push(token)).concat(detokenizer.finish())
}

/** `bytes` cut into pieces of the given sizes, repeated. */
const cut = (bytes: Uint8Array, sizes: ReadonlyArray<number>): ReadonlyArray<Uint8Array> => {
  const pieces: Array<Uint8Array> = []
  for (let start = 0, i = 0; start < bytes.length; i++) {
    const size = sizes[i % sizes.length]!
    pieces.push(bytes.subarray(start, start + size))
    start += size
  }
  return pieces
}

test("text comes whole, however its bytes are cut", () => {
  const bytes = new TextEncoder().encode(text)
  for (const sizes of [[1], [2], [3], [1, 3], [0, 5, 1], [bytes.length]]) {
    expect(detokenize(cut(bytes, sizes)).join("")).toBe(text)
  }
})

test("every output is whole characters", () => {
  const outputs = detokenize(cut(new TextEncoder().encode("x😀y"), [1]))
  expect(outputs).toEqual(["x", "", "", "", "😀", "y", ""])
})

test("an unfinished character comes out at the end as a replacement", () => {
  const detokenizer = new Detokenizer(() => Uint8Array.of(0xf0, 0x9f, 0x98))
  expect(detokenizer.push(0)).toBe("")
  expect(detokenizer.finish()).toBe("\uFFFD")
  expect(detokenizer.finish()).toBe("")
})

test("bytes that are no UTF-8 hold nothing back", () => {
  const bytes = Uint8Array.of(0x80, 0x80, 0x80, 0x80, 0xff, 0xc0, 0x41, 0xf8, 0x42)
  const outputs = detokenize(cut(bytes, [1]))
  expect(outputs.join("")).toBe(new TextDecoder().decode(bytes))
  expect(outputs[6]).toBe("A")
  expect(outputs[8]).toBe("B")
})

test("any bytes give what a decoder of the whole gives", () => {
  let state = 7
  const next = (): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return state >>> 16
  }
  for (let round = 0; round < 500; round++) {
    // Mostly lead and continuation bytes, where it gets difficult.
    const bytes = Uint8Array.from({ length: 40 }, () =>
      next() % 4 === 0 ? next() % 256 : 0x80 + (next() % 0x80),
    )
    const outputs = detokenize(cut(bytes, [1 + (next() % 3), 1 + (next() % 4)]))
    expect(outputs.join("")).toBe(new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes))
  }
})
