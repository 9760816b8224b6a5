import { expect, test } from "bun:test"
import { formatBytes, formatCount, formatEta, formatRate, formatSeconds } from "./units.ts"

const KiB = 1024
const MiB = 1024 * KiB
const GiB = 1024 * MiB

test.each([
  [0, "0 B"],
  [999, "999 B"],
  [1000, "0.98 KiB"],
  [KiB, "1.00 KiB"],
  [9.999 * KiB, "10.0 KiB"],
  [99.96 * KiB, "100 KiB"],
  [999.4 * KiB, "999 KiB"],
  [999.6 * KiB, "0.98 MiB"],
  [849.5 * MiB, "850 MiB"],
  [23.5 * GiB, "23.5 GiB"],
  [5000 * GiB, "4.88 TiB"],
  [5_000_000 * GiB, "4883 TiB"],
])("%d bytes are %s", (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text)
})

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
