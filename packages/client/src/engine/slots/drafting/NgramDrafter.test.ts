import { expect, test } from "bun:test"
import { NgramDrafter } from "./NgramDrafter.ts"
import { NgramIndex } from "./NgramIndex.ts"

const drafted = (
  drafter: NgramDrafter,
  tokens: ReadonlyArray<number>,
  most: number,
  id = 0,
): ReadonlyArray<number> => {
  const draft: Array<number> = []
  drafter.draft([{ id, tokens, most, draft }])
  return draft
}

/** The place that the index is to find, by looking at all of them. */
const lastPlace = (tokens: ReadonlyArray<number>, size: number): number => {
  for (let place = tokens.length - 1; place >= size; place--) {
    const isSame = Array.from({ length: size }, (_, back) => back + 1).every(
      (back) => tokens[place - back] === tokens[tokens.length - back],
    )
    if (isSame) return place
  }
  return -1
}

test("guesses what followed the same tokens the last time", () => {
  const drafter = new NgramDrafter({ lookupCount: 2, draftCount: 8 })
  expect(drafted(drafter, [1, 2, 3, 4, 1, 2, 5, 6, 9, 1, 2], 3)).toEqual([5, 6, 9])
  expect(drafted(drafter, [1, 2, 3, 4, 5], 3)).toEqual([])
  expect(drafted(drafter, [1, 2], 3)).toEqual([])
  expect(drafted(drafter, [], 3)).toEqual([])
})

test("goes on with a period that is shorter than the draft", () => {
  const drafter = new NgramDrafter({ lookupCount: 2, draftCount: 8 })
  expect(drafted(drafter, [9, 1, 2, 3, 1, 2, 3, 1, 2], 8)).toEqual([3, 1, 2, 3, 1, 2, 3, 1])
  expect(drafted(drafter, [9, 7, 7, 7], 4)).toEqual([7, 7, 7, 7])
})

test("texts have guesses of their own, also one after the other in a slot", () => {
  const drafter = new NgramDrafter({ lookupCount: 1, draftCount: 8 })
  expect(drafted(drafter, [1, 2, 1], 1, 0)).toEqual([2])
  expect(drafted(drafter, [1, 3, 1], 1, 1)).toEqual([3])
  expect(drafted(drafter, [4, 5, 6], 1, 0)).toEqual([])
})

test("the index finds the last place, as the text grows, and after a part of it is gone", () => {
  for (const size of [1, 2, 3]) {
    const index = new NgramIndex(size)
    const tokens: Array<number> = []
    let state = 12_345
    let missedCount = 0
    for (let step = 0; step < 6000; step++) {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
      tokens.push((state >>> 16) % 7)
      const found = index.find(tokens)
      const expected = lastPlace(tokens, size)
      if (found >= 0) expect(found).toBe(expected)
      else if (expected >= 0) missedCount++
      if (step % 1500 === 1499) tokens.splice(5, 700)
    }
    // Where two n-grams have one place in the table, the earlier one is not found.
    expect(missedCount).toBeLessThan(300)
  }
})
