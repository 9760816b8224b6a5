import { expect, test } from "bun:test"
import { columnsOf, styleOf } from "./terminal.ts"

test("colours are for terminals that want them", () => {
  expect(styleOf({ isTTY: true }, {}).bold("x")).toBe("\x1b[1mx\x1b[22m")
  expect(styleOf({ isTTY: true }, { NO_COLOR: "1" }).bold("x")).toBe("x")
  expect(styleOf({ isTTY: true }, { TERM: "dumb" }).red("x")).toBe("x")
  expect(styleOf({ isTTY: false }, {}).bold("x")).toBe("x")
})

test("only a terminal limits a line", () => {
  expect(columnsOf({ isTTY: true, columns: 120 })).toBe(120)
  expect(columnsOf({ isTTY: true, columns: 0 })).toBe(80)
  expect(columnsOf({ isTTY: false, columns: 120 })).toBe(Number.POSITIVE_INFINITY)
})
