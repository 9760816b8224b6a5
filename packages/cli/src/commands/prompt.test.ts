import { describe, expect, test } from "bun:test"
import { processEscapes } from "./prompt.ts"

describe("processEscapes", () => {
  test.each([
    ["plain", "plain"],
    ["a\\nb\\tc\\r", "a\nb\tc\r"],
    ["\\'\\\"\\\\", "'\"\\"],
    ["\\\\n", "\\n"],
    ["\\x41\\x62", "Ab"],
    // Bytes make characters of UTF-8.
    ["\\xe2\\x82\\xac", "€"],
    // What is no sequence stays as it is.
    ["\\d \\x4 \\xzz \\", "\\d \\x4 \\xzz \\"],
    ["ünï → \\n", "ünï → \n"],
  ])("%p is %p", (text, expected) => {
    expect(processEscapes(text)).toBe(expected)
  })
})
