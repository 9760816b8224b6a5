import { describe, expect, test } from "bun:test"
import { median, pairedSpeedup, speedup, summarize } from "./statistics.ts"

describe("median", () => {
  test.each([
    [[7], 7],
    [[3, 1, 2], 2],
    [[4, 1, 3, 2], 2.5],
    // By value, not by text.
    [[10, 9, 100], 10],
    [[-5, 5, 0.5, 2], 1.25],
  ])("of %p is %p", (values, expected) => {
    expect(median(values)).toBe(expected)
  })

  test("leaves its input in order", () => {
    const values = [3, 1, 2]
    median(values)
    expect(values).toEqual([3, 1, 2])
  })

  test("of nothing is an error", () => {
    expect(() => median([])).toThrow(RangeError)
  })
})

test("summarize gives count, median and both ends", () => {
  expect(summarize([8, 2, 4])).toEqual({ count: 3, median: 4, min: 2, max: 8 })
})

test("speedup is above 1 when ours takes less time", () => {
  expect(speedup(summarize([6, 6, 6]), summarize([4, 3, 2]))).toBe(2)
  expect(speedup(summarize([1]), summarize([4]))).toBe(0.25)
})

test("pairedSpeedup compares within rounds, whatever slows a whole round", () => {
  // Ours takes half the time in each round; the second round ran on a busy machine.
  expect(pairedSpeedup([2, 20, 3, 4, 5], [1, 10, 1.5, 2, 2.5])).toBe(2)
  expect(pairedSpeedup([2, 4, 100], [1, 1])).toBe(3)
})
