import { expect, test } from "bun:test"
import { OutputReader } from "./OutputReader.ts"

const encoder = new TextEncoder()

/** What a reader makes of chunks: messages as `[message, ...bytes]`, lines as texts. */
const read = (chunks: ReadonlyArray<Uint8Array>, maxMessageBytes = Number.POSITIVE_INFINITY) => {
  const found: Array<unknown> = []
  const reader = new OutputReader<object>(
    {
      onMessage: (message, bytes) => found.push([message, ...bytes]),
      onLine: (line) => found.push(line),
    },
    maxMessageBytes,
  )
  for (const chunk of chunks) reader.push(chunk)
  reader.end()
  return found
}

const concat = (...parts: ReadonlyArray<string | ReadonlyArray<number>>): Uint8Array =>
  Buffer.concat(
    parts.map((part) => (typeof part === "string" ? encoder.encode(part) : Uint8Array.from(part))),
  )

/** `bytes` in chunks of this size. */
const chunked = (bytes: Uint8Array, size: number): ReadonlyArray<Uint8Array> =>
  Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) =>
    bytes.slice(index * size, (index + 1) * size),
  )

test("finds the same in chunks of any size", () => {
  const stream = concat(
    'noise ü\n{"a":"ü"}\n\n{"bytes":4}\n',
    // Raw bytes that look like ends of lines and messages.
    [10, 123, 0, 10],
    '{"bytes":0}\n{broken\n{"b":2}\n{"bytes":1}\n',
    [123],
    "the last line",
  )
  const expected = [
    "noise ü",
    [{ a: "ü" }],
    "",
    [{ bytes: 4 }, 10, 123, 0, 10],
    [{ bytes: 0 }],
    "{broken",
    [{ b: 2 }],
    [{ bytes: 1 }, 123],
    "the last line",
  ]
  for (let size = 1; size <= stream.length; size++) {
    expect(read(chunked(stream, size))).toEqual(expected)
  }
})

test("gives bytes an array of their own", () => {
  const found: Uint8Array[] = []
  const reader = new OutputReader<object>(
    { onMessage: (_, bytes) => found.push(bytes), onLine: () => {} },
    Number.POSITIVE_INFINITY,
  )
  const chunk = concat('{"bytes":4}\n', [1, 2, 3, 4])
  reader.push(chunk)
  chunk.fill(0)
  expect(found[0]).toEqual(Uint8Array.of(1, 2, 3, 4))
  expect(found[0]?.byteOffset).toBe(0)
})

test("cuts a long line, and not a long message", () => {
  const line = "x".repeat(20_000)
  const message = { text: "y".repeat(200_000) }
  const stream = concat(`${line}\n${JSON.stringify(message)}\n${line}`)
  for (const size of [1000, 16 * 1024, 1_000_000]) {
    expect(read(chunked(stream, size))).toEqual([
      line.slice(0, 16 * 1024),
      [message],
      line.slice(0, 16 * 1024),
    ])
  }
})

test("takes a message over the bound for a line, and goes on behind it", () => {
  const long = JSON.stringify({ text: "z".repeat(100_000) })
  const stream = concat(`${long}\n{"a":1}\n`)
  for (const size of [1000, 1_000_000]) {
    expect(read(chunked(stream, size), 50_000)).toEqual([long.slice(0, 16 * 1024), [{ a: 1 }]])
  }
  expect(read([concat('{"bytes":51}\n{"a":1}\n')], 50)).toEqual(['{"bytes":51}', [{ a: 1 }]])
})

test.each([-1, 1e300, 2 ** 53])(
  "takes an object that announces %d bytes for a line, too",
  (size) => {
    const line = JSON.stringify({ bytes: size })
    expect(read([encoder.encode(`${line}\n{"a":1}\n`)])).toEqual([line, [{ a: 1 }]])
  },
)

test("drops a message whose bytes do not all come", () => {
  expect(read([concat('{"a":1}\n{"bytes":4}\n', [1, 2])])).toEqual([[{ a: 1 }]])
})
