import { expect, test } from "bun:test"
import { readReport } from "./statusReport.ts"

const read = (value: unknown) => readReport(new TextEncoder().encode(JSON.stringify(value)))

const cache = { fileCount: 1, sizeBytes: 2, limitBytes: 3, hits: 4, misses: 5 }

test("what a server says is taken, and what is not known is left out", () => {
  const report = {
    software: "1.2.3",
    uptimeMs: 1000,
    clientCount: 0,
    maxClients: 64,
    servedCount: 9,
    cache,
    load: { average: 0.5, coreCount: 8 },
    devices: [{ name: "CPU", description: "a processor" }],
  }
  expect(read({ ...report, more: "of a later version" })).toEqual(report)
  expect(read({})).toEqual({})
})

test.each([
  ["no number", { uptimeMs: "1", clientCount: null, maxClients: {}, servedCount: -1 }],
  ["half of it", { cache: { ...cache, hits: undefined }, load: { average: 1 } }],
  ["of another kind", { cache: 1, load: null, devices: {}, software: 5 }],
])("%s is not", (_, value) => expect(read(value)).toEqual({}))

test("what would do something to a terminal is not shown", () => {
  const name = "\u001b[2J\u009b1m\u202eCPU\n"
  const report = read({ software: `\u0007${"x".repeat(500)}`, devices: [{ name }, 7] })
  expect(report!.software).toBe(` ${"x".repeat(127)}`)
  expect(report!.devices).toEqual([
    { name: " [2J 1m CPU ", description: "" },
    { name: "", description: "" },
  ])
})

test.each(["", "{", "\u0000"])("%j is no report", (text) => {
  expect(readReport(new TextEncoder().encode(text))).toBeUndefined()
})
