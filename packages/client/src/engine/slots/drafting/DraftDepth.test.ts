import { expect, test } from "bun:test"
import { DraftDepth } from "./DraftDepth.ts"

/** The next steps, in which so many guesses are right at most. */
const depths = (depth: DraftDepth, steps: number, right: number): ReadonlyArray<number> =>
  Array.from({ length: steps }, () => {
    const count = depth.next()
    if (count > 0) depth.learn(count, Math.min(count, right))
    return count
  })

test("grows while guesses are right, to the most that is allowed", () => {
  expect(depths(new DraftDepth(4, 20), 5, 100)).toEqual([4, 8, 16, 20, 20])
  expect(depths(new DraftDepth(8, 3), 2, 100)).toEqual([3, 3])
})

test("stays near what is right, and looks for one more", () => {
  expect(depths(new DraftDepth(16, 48), 4, 5)).toEqual([16, 6, 6, 6])
})

test("pauses longer and longer while nothing is right, and starts anew when something is", () => {
  const depth = new DraftDepth(8, 48)
  expect(depths(depth, 12, 0)).toEqual([8, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1])
  const silent = depths(depth, 200, 0)
  expect(silent.lastIndexOf(1)).toBeGreaterThan(200 - 34)
  while (depth.next() === 0) {}
  depth.learn(1, 1)
  expect(depths(depth, 4, 100)).toEqual([2, 4, 8, 16])
})

test("falls no further than guesses are any use", () => {
  expect(depths(new DraftDepth(8, 16, 3), 5, 1)).toEqual([8, 3, 3, 3, 3])
})

test("a draft that had no room says nothing of a longer one", () => {
  const depth = new DraftDepth(8, 48)
  depth.learn(3, 3)
  expect(depth.next()).toBe(8)
})
