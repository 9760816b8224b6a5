import { expect, test } from "bun:test"
import { columnsOf, styleOf } from "./terminal.ts"

test("colours are for terminals that want them", () => {
  expect(styleOf({ isTTY: true }, {}).bold("x")).toBe("\x1b[1mx\x1b[22m")
  expect(styleOf({ isTTY: true }, { NO_COLOR: "1" }).bold("x")).toBe("x")
  expect(styleOf({ isTTY: true }, { TERM: "dumb" }).red("x")).toBe("x")
  expect(styleOf({ isTTY: false }, {}).bold("x")).toBe("x")
})

test("a terminal limits a line, and elsewhere COLUMNS does", () => {
  expect(columnsOf({ isTTY: true, columns: 120 }, {})).toBe(120)
  expect(columnsOf({ isTTY: true, columns: 120 }, { COLUMNS: "60" })).toBe(120)
  expect(columnsOf({ isTTY: true, columns: 0 }, {})).toBe(80)
  expect(columnsOf({ isTTY: true, columns: 0 }, { COLUMNS: "60" })).toBe(60)
  expect(columnsOf({ isTTY: false, columns: 120 }, {})).toBe(Number.POSITIVE_INFINITY)
  expect(columnsOf({ isTTY: false, columns: 120 }, { COLUMNS: "60" })).toBe(60)
  expect(columnsOf({ isTTY: false, columns: 120 }, { COLUMNS: "-1" })).toBe(
    Number.POSITIVE_INFINITY,
  )
})
