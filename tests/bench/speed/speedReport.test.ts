import { expect, test } from "bun:test"
import { comparisonsOf, type Quotient, speedParts } from "./comparisons.ts"
import type { SpeedMeasured } from "./measureSpeed.ts"
import {
  gainsOf,
  joinSpeeds,
  quotientOf,
  speedGains,
  speedTable,
  trafficTable,
} from "./speedReport.ts"
import { ours, type SpeedSample, upstream } from "./ways.ts"

const sample = (prompt: number, text: number): SpeedSample => ({
  rates: { "prompt of 512": [prompt, prompt], "1 text": [text] },
  cpuSeconds: 2,
})

const [oursOne, oursTwo, theirs] = [ours(1), ours(2), upstream(2)]

const measured: SpeedMeasured = {
  comparison: {
    part: "split",
    title: "A comparison",
    what: "A model",
    model: "deep",
    ways: [oursOne, oursTwo, theirs],
    tests: { prompts: [512], streams: [1], textCount: 8, repeat: 1 },
    quotients: [
      { title: "2 ÷ 1", of: [oursTwo], by: [oursOne], gain: "second" },
      { title: "ours ÷ theirs", of: [oursOne, oursTwo], by: [theirs], gain: "reference" },
    ],
    isOneCore: false,
    delayMs: 0,
  },
  samples: {
    // The machine is twice as slow in the second round.
    [oursOne.name]: [sample(50, 10), sample(25, 5), sample(50, 10)],
    [oursTwo.name]: [sample(100, 9), sample(50, 4.5), sample(80, 11)],
    // The last one of these failed.
    [theirs.name]: [sample(40, 5), sample(20, 2.5)],
  },
}

test("a quotient is that of the best in each round, the median of the rounds", () => {
  const [over, against] = measured.comparison.quotients
  expect(quotientOf(measured.samples, over!, "prompt of 512")).toBe(2)
  expect(quotientOf(measured.samples, over!, "1 text")).toBeCloseTo(0.9)
  expect(quotientOf(measured.samples, against!, "1 text")).toBe(2)
  expect(quotientOf({}, against!, "1 text")).toBeUndefined()
})

test("a table has a row a way, and one a quotient; what failed is a dash", () => {
  expect(speedTable(measured).split("\n")).toEqual([
    "| tokens/s | prompt of 512 | 1 text | CPU, whole job, s |",
    "| --- | --- | --- | --- |",
    "| ours, 1 server | 50.0 (25.0–50.0) | 10.0 (5.00–10.0) | 2.00 |",
    "| ours, 2 servers | 80.0 (50.0–100) | 9.00 (4.50–11.0) | 2.00 |",
    "| llama.cpp, 2 servers | 30.0 (20.0–40.0) | 3.75 (2.50–5.00) | 2.00 |",
    "| **2 ÷ 1** | 2.00× | 0.90× |  |",
    "| **ours ÷ theirs** | 2.50× | 2.00× |  |",
  ])
  const failed = { ...measured, samples: { [oursOne.name]: measured.samples[oursOne.name]! } }
  expect(speedTable(failed)).toContain("| ours, 2 servers | – | – | – |")
})

test("what somebody gains is a row a test, of the quotients that say so", () => {
  const { comparison, samples } = measured
  const [second, { title, of, by }] = comparison.quotients as [Quotient, Quotient]
  const quotients = [second, { title, of, by }]
  const rows = speedGains([
    measured,
    { comparison: { ...comparison, quotients }, samples },
    { comparison, samples: {} },
  ])
  expect(
    gainsOf([...rows, { what: "loading", reference: 3 }])
      .split("\n")
      .slice(2),
  ).toEqual([
    "| A model: prompt of 512 | 2.00× | 2.50× |",
    "| A model: 1 text | 0.90× | 2.00× |",
    "| A model: prompt of 512 | 2.00× | – |",
    "| A model: 1 text | 0.90× | – |",
    "| loading | – | 3.00× |",
  ])
})

test("several reports of one comparison are one, with all samples", () => {
  const joined = joinSpeeds([measured, measured])
  expect(joined).toHaveLength(1)
  expect(joined[0]!.samples[oursOne.name]).toHaveLength(6)
  expect(joined[0]!.samples[theirs.name]).toHaveLength(5)
})

test("a way that failed in one report has no samples of the rounds that the others have there", () => {
  const { comparison } = measured
  const first = { [oursOne.name]: [sample(10, 10), sample(10, 10)], [theirs.name]: [sample(5, 5)] }
  const second = { [oursOne.name]: [sample(8, 8)], [theirs.name]: [sample(2, 2)] }
  const reports = [first, second].map((samples) => ({ comparison, samples }))
  const [joined] = joinSpeeds(JSON.parse(JSON.stringify(joinSpeeds(reports))))
  expect(joined!.samples[theirs.name]).toEqual([sample(5, 5), null, sample(2, 2)])
  // 2 in the first round and 4 in the third.
  const quotient = { title: "", of: [oursOne], by: [theirs] }
  expect(quotientOf(joined!.samples, quotient, "1 text")).toBe(3)
  expect(speedTable(joined!)).toContain("| llama.cpp, 2 servers | 3.50 (2.00–5.00) |")
})

test("traffic is a row a way", () => {
  const traffic = { sentBytes: 1234.4, receivedBytes: 128000, writes: 24, waits: 1.04 }
  expect(trafficTable([{ model: "deep", way: "ours", traffic }]).split("\n")[2]).toBe(
    "| deep | ours | 1234 | 128000 | 24.0 | 1.0 |",
  )
})

test.each([true, false])("every part compares ways that it runs (quick: %p)", (isQuick) => {
  for (const part of speedParts) {
    if (part === "traffic") continue
    const comparisons = comparisonsOf(part, { isQuick })
    expect(new Set(comparisons.map(({ title }) => title)).size).toBe(comparisons.length)
    for (const { ways, quotients } of comparisons) {
      const names = ways.map(({ name }) => name)
      expect(new Set(names).size).toBe(names.length)
      for (const { of, by } of quotients) {
        for (const { name } of [...of, ...by]) expect(names).toContain(name)
      }
    }
  }
})
