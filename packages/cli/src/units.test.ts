import { expect, test } from "bun:test"
import { formatCount, formatEta, formatRate, formatSeconds } from "./units.ts"

test.each([
  [0.004, "0.00 s"],
  [1.234, "1.23 s"],
  [9.999, "10.0 s"],
  [59.96, "60.0 s"],
  [99.96, "1 min 40 s"],
  [119.7, "2 min 0 s"],
  [3599.9, "1 h 0 min"],
  [7500, "2 h 5 min"],
])("%d seconds are %s", (seconds, text) => {
  expect(formatSeconds(seconds)).toBe(text)
})

test("estimated times are whole seconds", () => {
  expect(formatEta(0)).toBe("0 s")
  expect(formatEta(1.2)).toBe("2 s")
  expect(formatEta(75)).toBe("1 min 15 s")
})

test("rates and counts", () => {
  expect(formatRate(128, 1000)).toBe("128 tokens/s")
  expect(formatRate(1, 3000)).toBe("0.33 tokens/s")
  expect(formatRate(5, 0)).toBe("–")
  expect(formatCount(1, "token")).toBe("1 token")
  expect(formatCount(0, "token")).toBe("0 tokens")
})
