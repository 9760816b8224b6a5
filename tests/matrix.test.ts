/** README.md says what a run with all releases passes: the tests of a cell fail where it is not so. */
import { expect, test } from "bun:test"
import { allCells, readmeTable, renderMatrix } from "./matrix.ts"

test("README.md has the table of all versions and directions", () => {
  expect(readmeTable().table).toBe(renderMatrix(allCells()))
})

test("a cell that did not pass is not claimed", () => {
  const cells = new Set(allCells())
  cells.delete("upstream-ours 3.6.0")
  const [row] = renderMatrix(cells)
    .split("\n")
    .filter((line) => line.startsWith("| 3.6.0"))
  expect(row!.split("|").map((cell) => cell.trim())).toEqual([
    ...["", "3.6.0", "llama.cpp of December 2025 to March 2026", "b7698", "untested", "yes", ""],
  ])
})
