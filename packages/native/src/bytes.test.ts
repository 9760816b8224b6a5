import { expect, test } from "bun:test"
import { formatBytes, formatMebibytes, formatNeededBytes, formatNeededMebibytes } from "./bytes.ts"

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
  [0, "0 MiB", "0 MiB"],
  [1, "0 MiB", "1 MiB"],
  [MiB, "1 MiB", "1 MiB"],
  [3 * MiB + 5, "3 MiB", "4 MiB"],
  [5 * GiB - 1, "5119 MiB", "5120 MiB"],
])("%d bytes are %s that are there, %s that are needed", (bytes, there, needed) => {
  expect(formatMebibytes(bytes)).toBe(there)
  expect(formatNeededMebibytes(bytes)).toBe(needed)
})

test("what is needed is in GiB from one on", () => {
  expect(formatNeededBytes(GiB - 1)).toBe("1024 MiB")
  expect(formatNeededBytes(GiB)).toBe("1.00 GiB")
  expect(formatNeededBytes(7.499 * GiB)).toBe("7.50 GiB")
})
