import { describe, expect, test } from "bun:test"
import { compareOutputs, type Output, spreadTokens } from "./compare.ts"

const output = (...rows: ReadonlyArray<ReadonlyArray<number>>): Output => ({
  rowCount: rows.length,
  columnCount: rows[0]!.length,
  values: Float32Array.from(rows.flat()),
})

describe("compareOutputs", () => {
  test("equal outputs do not differ", () => {
    const same = output([1, 2, 3], [-4, 0, Number.NEGATIVE_INFINITY])
    const comparison = compareOutputs(same, same)
    expect(comparison).toMatchObject({ maxAbsDiff: 0, nmse: 0, top1Agreement: 1, klDivergence: 0 })
  })

  test("measures by hand", () => {
    // Differences 0, 0.5 and -1 on squares 1 + 4 + 4.
    const comparison = compareOutputs(output([1, 2, -2]), output([1, 1.5, -1]))
    expect(comparison.maxAbsDiff).toBe(1)
    expect(comparison.nmse).toBeCloseTo(1.25 / 9, 6)
    expect(comparison.top1Agreement).toBe(1)
    expect(comparison.cosineSimilarity).toBeCloseTo(6 / Math.sqrt(9 * 4.25), 6)
  })

  test("the divergence is that of the probabilities, in nats", () => {
    // Probabilities (1/2, 1/2) and (1/4, 3/4).
    const comparison = compareOutputs(output([0, 0]), output([0, Math.log(3)]))
    expect(comparison.klDivergence).toBeCloseTo(0.5 * Math.log(2) + 0.5 * Math.log(2 / 3), 6)
    // A constant added to all logits changes no probability.
    expect(compareOutputs(output([700, 701]), output([0, 1])).klDivergence).toBeCloseTo(0, 6)
  })

  test("rows are counted where the likeliest token is another", () => {
    const reference = output([1, 2], [2, 1], [0, 5], [1, 0])
    const other = output([1, 2], [1, 2], [0, 5], [1, 0])
    expect(compareOutputs(reference, other).top1Agreement).toBe(0.75)
  })

  test("the worst row counts for the cosine similarity", () => {
    const comparison = compareOutputs(output([1, 0], [0, 2]), output([3, 0], [1, 1]))
    expect(comparison.cosineSimilarity).toBeCloseTo(Math.SQRT1_2, 6)
  })

  test("a number that is none is seen, on either side", () => {
    for (const [a, b] of [
      [Number.NaN, 1],
      [1, Number.NaN],
      [Number.NaN, Number.NaN],
      [1, Number.POSITIVE_INFINITY],
    ]) {
      const comparison = compareOutputs(output([1, a!]), output([1, b!]))
      expect(comparison.nmse <= 1).toBe(false)
      expect(comparison.maxAbsDiff <= 1).toBe(false)
    }
  })

  test("something where nothing was expected differs beyond every tolerance", () => {
    expect(compareOutputs(output([0, 0]), output([0, 1])).nmse).toBe(Number.POSITIVE_INFINITY)
    expect(compareOutputs(output([0, 0]), output([0, 0])).nmse).toBe(0)
  })

  test("different shapes are not compared", () => {
    expect(() => compareOutputs(output([1, 2]), output([1], [2]))).toThrow(RangeError)
  })
})

describe("spreadTokens", () => {
  test("always gives the same different ids, all in the vocabulary", () => {
    for (const vocabSize of [128, 389, 32_000, 151_936]) {
      const tokens = spreadTokens(32, vocabSize)
      expect(tokens).toEqual(spreadTokens(32, vocabSize))
      expect(new Set(tokens).size).toBe(32)
      expect(Math.min(...tokens)).toBeGreaterThanOrEqual(0)
      expect(Math.max(...tokens)).toBeLessThan(vocabSize)
      // Spread: every eighth of the vocabulary is met.
      expect(new Set(tokens.map((token) => Math.floor((token * 8) / vocabSize))).size).toBe(8)
    }
  })

  test("a tiny vocabulary repeats ids", () => {
    expect(spreadTokens(4, 1)).toEqual([0, 0, 0, 0])
  })
})
