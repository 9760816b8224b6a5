/** The largest values of rows, by the shim. */
import { expect, test } from "bun:test"
import { ggml } from "./libggml.ts"

type Found = ReadonlyArray<readonly [number, number]>

const topOf = (rows: Float32Array, columns: number, count: number): ReadonlyArray<Found> => {
  const rowCount = rows.length / columns
  const block = new DataView(new ArrayBuffer(rowCount * count * 8))
  ggml().gs_rows_top(rows, rowCount, columns, count, new Uint8Array(block.buffer))
  return Array.from({ length: rowCount }, (_, row) =>
    Array.from({ length: count }, (_, place) => {
      const at = (row * count + place) * 8
      return [block.getUint32(at, true), block.getFloat32(at + 4, true)] as const
    }),
  )
}

/** By sorting all. */
const expected = (row: Float32Array, count: number): Found => {
  const known = (value: number): number => (Number.isNaN(value) ? -Infinity : value)
  return Array.from(row, (value, index) => [index, value] as const)
    .sort(([i, a], [j, b]) => (known(a) === known(b) ? i - j : known(a) < known(b) ? 1 : -1))
    .slice(0, count)
    .sort(([i], [j]) => i - j)
}

const random = (length: number, seed: number): Float32Array => {
  let state = seed
  return Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 31 - 1
  })
}

const shapes: ReadonlyArray<readonly [string, (values: Float32Array) => Float32Array]> = [
  ["random", (values) => values],
  ["rising", (values) => values.sort()],
  ["falling", (values) => values.sort().reverse()],
  ["of few different ones", (values) => values.map((value) => Math.round(value * 3))],
  ["all equal", (values) => values.fill(-2)],
  ["zeros of both signs", (values) => values.map((value) => (value > 0 ? 0 : -0))],
  ["with NaN", (values) => values.map((value) => (value < 0.2 ? Number.NaN : value))],
  ["NaN alone", (values) => values.fill(Number.NaN)],
  ["with infinities", (values) => values.map((value) => (value > 0.8 ? Infinity : -Infinity))],
]

test.each(shapes)("%s values", (_, shaped) => {
  for (const columns of [1, 2, 15, 16, 17, 100, 1000, 16_003]) {
    const row = shaped(random(columns, columns))
    for (const count of [1, 2, 3, 64, 1024].filter((count) => count <= columns)) {
      expect([columns, count, ...topOf(row, columns, count)]).toEqual([
        ...[columns, count, expected(row, count)],
      ])
    }
  }
})

test("each row has its own, at whatever address", () => {
  const bytes = new Uint8Array(1 + 4 * 300)
  const values = random(300, 5)
  bytes.set(new Uint8Array(values.buffer), 1)
  const block = new DataView(new ArrayBuffer(3 * 5 * 8))
  ggml().gs_rows_top(bytes.subarray(1), 3, 100, 5, new Uint8Array(block.buffer))
  const found = topOf(values, 100, 5)
  for (const row of [0, 1, 2]) {
    expect(found[row]).toEqual(expected(values.subarray(row * 100, row * 100 + 100), 5))
    for (const [place, [index]] of found[row]!.entries()) {
      expect(block.getUint32((row * 5 + place) * 8, true)).toBe(index)
    }
  }
})
