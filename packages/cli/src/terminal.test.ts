import { expect, test } from "bun:test"
import { join } from "node:path"
import { columnsOf, styleOf } from "./terminal.ts"

/** A shell's output, in which `$program` writes a MiB to stdout and then a line to stderr. */
const shell = (script: string): string => {
  const program = `
    import { noteLine, printLine } from ${JSON.stringify(join(import.meta.dir, "terminal.ts"))}
    printLine("a".repeat(2 ** 20))
    noteLine("note")`
  const { stdout } = Bun.spawnSync(["sh", "-c", script], {
    env: { ...process.env, bun: process.execPath, program },
  })
  return stdout.toString()
}

test("both streams stay in order in one pipe, however slowly it is read", () => {
  const read = shell('"$bun" -e "$program" 2>&1 | { sleep 0.2; cat; }')
  expect(read === `${"a".repeat(2 ** 20)}\nnote\n`).toBe(true)
})

test("a pipe stays as it was for others that write into it", () => {
  const read = shell(
    '{ "$bun" -e "$program" 2>/dev/null; head -c 1048576 /dev/zero || echo failed; } | { sleep 0.2; cat; }',
  )
  expect(read.length).toBe(2 ** 20 + 1 + 2 ** 20)
})

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
