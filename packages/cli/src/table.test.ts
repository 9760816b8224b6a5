import { expect, test } from "bun:test"
import { type Column, formatTable, tableLine } from "./table.ts"

const columns: ReadonlyArray<Column> = [
  { title: "device" },
  { title: "place", minWidth: 6 },
  { title: "free", align: "right" },
]

test("columns are as wide as their widest cell, numbers to the right", () => {
  expect(
    formatTable(columns, [
      ["RPC0", "10.0.0.2:50052", "1 B"],
      ["CPU", "local", "100 MiB"],
    ]),
  ).toBe(
    [
      "device  place              free",
      "RPC0    10.0.0.2:50052      1 B",
      "CPU     local           100 MiB",
    ].join("\n"),
  )
})

test("a table that is too wide cuts its flexible column, down to its minimum", () => {
  const rows = [["RPC0", "a-very-long-host-name.example:50052", "100 MiB"]]
  const [heading, row] = formatTable(columns, rows, { columns: 40 }).split("\n")
  expect(row).toBe("RPC0    a-very-long-host-name…   100 MiB".replace("…   ", ".…  "))
  expect(heading!.length).toBeLessThanOrEqual(40)
  expect(formatTable(columns, rows, { columns: 23 }).split("\n")[1]).toBe("RPC0    a-ver…  100 MiB")
})

test("rows that do not fit at all are some lines each, the values behind their titles", () => {
  const rows = [
    ["RPC0", "a:50052", "1 B"],
    ["CPU", "a-host-with-a-long-name:50052", "100 MiB"],
  ]
  const options = { columns: 22, heading: (text: string) => `<${text}>` }
  expect(formatTable(columns, rows, options)).toBe(
    [
      "<RPC0>",
      "  place a:50052,",
      "  free 1 B",
      "<CPU>",
      "  place a-host-with-a…",
      "  free 100 MiB",
    ].join("\n"),
  )
})

test("the heading is styled, and no line ends in spaces", () => {
  const table = formatTable([{ title: "a" }, { title: "b" }], [["long cell", "x"]], {
    heading: (text) => `<${text}>`,
  })
  expect(table).toBe("<a          b>\nlong cell  x")
})

test("lines that come one by one keep the given widths", () => {
  const fixed: ReadonlyArray<Column> = [
    { title: "model", width: 5 },
    { title: "NMSE", width: 6, align: "right" },
    { title: "result" },
  ]
  expect(tableLine(fixed, ["tiny", "0", "ok"])).toBe("tiny        0  ok")
  expect(tableLine(fixed, ["llama-70b", "1e-7", "DIFFERS"])).toBe("llam…    1e-7  DIFFERS")
})
