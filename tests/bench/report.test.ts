import { describe, expect, test } from "bun:test"
import { formatNumber } from "./markdown.ts"
import type { Sample } from "./measure.ts"
import {
  formatReport,
  gainsTable,
  linesOf,
  marksOf,
  mergeReports,
  type Report,
  replaceBetweenMarks,
  timesTable,
} from "./report.ts"
import type { BenchModel } from "./workloads.ts"

const sample = (startToReadyMs: number, promptMs: readonly number[]): Sample => ({
  startToReadyMs,
  loadCallMs: 8,
  wallMs: 1000,
  runs: promptMs.map((ms) => ({ tokens: [1, 2], promptMs: ms, tokenMs: 2 })),
  clientCpuSeconds: 0.5,
  serverCpuSeconds: 0.25,
  noiseCores: 0,
})

const measured = {
  case: {
    model: "tiny" as const,
    serverCount: 2,
    pinned: true,
    cacheWarm: false,
    job: {
      modelPath: "tiny.gguf",
      prompt: [5, 6, 7],
      generate: 2,
      repeat: 3,
      ubatchSize: 512,
      contextSize: 1024,
      inTurns: true,
    },
  },
  samples: {
    upstream: [sample(300, [9, 6, 7]), sample(100, [5]), sample(200, [8])],
    ours: [sample(50, [1]), sample(40, [3.5]), sample(60, [4])],
  },
}

describe("linesOf", () => {
  test("summarizes rounds, a sample being the median of its repetitions", () => {
    const lines = linesOf(measured)
    expect(lines.map((line) => line.metric)).toEqual([
      "start to ready",
      "load call",
      "prompt 3",
      "generate, per token",
      "CPU, whole job",
    ])
    expect(lines[0]?.values.upstream).toEqual({ count: 3, median: 200, min: 100, max: 300 })
    expect(lines[0]?.speedup).toBe(4)
    expect(lines[2]?.values.upstream).toEqual({ count: 3, median: 7, min: 5, max: 8 })
    expect(lines[2]?.speedup).toBe(2)
    // 7/1, 5/3.5, 8/4
    expect(lines[2]?.pairedSpeedup).toBe(2)
    expect(lines[4]?.values.ours?.median).toBe(0.75)
  })

  test("leaves compute out of a job that only loads, and quotients without a second side", () => {
    const lines = linesOf({
      case: { ...measured.case, job: { ...measured.case.job, generate: 1 } },
      samples: { upstream: measured.samples.upstream },
    })
    expect(lines.map((line) => line.metric)).toEqual([
      "start to ready",
      "load call",
      "CPU, whole job",
    ])
    expect(lines[0]?.speedup).toBeUndefined()
  })
})

test("timesTable is a Markdown table, a row a figure", () => {
  const rows = timesTable([measured]).split("\n")
  expect(rows).toHaveLength(2 + 5)
  expect(rows[0]).toBe("| model | servers | what | upstream | ours | upstream ÷ ours |")
  expect(rows[2]).toBe(
    "| tiny | 2 | start to ready, ms | 200 (100–300) | 50.0 (40.0–60.0) | 4.00 |",
  )
})

test.each([
  [0, "0"],
  [0.0571, "0.057"],
  [0.61, "0.610"],
  [8.714, "8.71"],
  [12.34, "12.3"],
  [1412.4, "1412"],
])("formatNumber of %p is %p", (value, text) => {
  expect(formatNumber(value)).toBe(text)
})

const [BEGIN_MARK, END_MARK] = marksOf("bench")

describe("replaceBetweenMarks", () => {
  test("changes nothing else", () => {
    const document = `# Title\n\n${BEGIN_MARK}\nold\n${END_MARK}\n\nrest\n`
    const once = replaceBetweenMarks(document, "bench", "| new |")
    expect(once).toBe(`# Title\n\n${BEGIN_MARK}\n\n| new |\n\n${END_MARK}\n\nrest\n`)
    expect(replaceBetweenMarks(once, "bench", "| new |")).toBe(once)
  })

  test.each(["none", `${END_MARK} ${BEGIN_MARK}`, `${BEGIN_MARK}${BEGIN_MARK}${END_MARK}`])(
    "refuses a document with other marks: %p",
    (document) => {
      expect(() => replaceBetweenMarks(document, "bench", "text")).toThrow("once each")
    },
  )
})

test("mergeReports keeps every measurement, and the smallest count of rounds", () => {
  const report = (rounds: number, model: BenchModel): Report => ({
    machine: {
      processor: "processor",
      coreCount: 2,
      isVirtual: true,
      memoryBytes: 2 ** 33,
      system: "linux 6.1 x64",
      bunVersion: "1.4.5",
    },
    llamaVersion: "v0.5.0",
    rounds,
    loadAverage: { before: 0, after: 1 },
    speeds: [],
    traffic: [],
    measured: [{ ...measured, case: { ...measured.case, model } }],
    memory: [],
    llamaBench: [],
    commands: [
      {
        model,
        ...{ pinned: true, serverCount: 1, cacheWarm: false, pauseMs: 1000 },
        reference: [40, 50, 60],
        referenceName: "llama-completion",
        ggmlRpcRun: [100, 90, 110],
      },
    ],
  })
  const merged = mergeReports([report(5, "tiny"), report(3, "large")])
  expect(merged.rounds).toBe(3)
  expect(merged.measured.map(({ case: { model } }) => model)).toEqual(["tiny", "large"])
  const text = formatReport(merged)
  expect(text).toContain("processor, 2 virtual cores, 8 GiB, linux 6.1 x64; llama.cpp v0.5.0")
  expect(text).toContain(
    "| large | 2 | prompt 3, ms | 7.00 (5.00–8.00) | 3.50 (1.00–4.00) | 2.00 |",
  )
  expect(text).toContain(
    "| large | 1 | none | one core | 1 s later | 50.0 (40.0–60.0) | 100 (90.0–110) | 0.50 |",
  )
  const gains = gainsTable(merged).split("\n")
  expect(gains.slice(2)).toEqual([
    "| loading tiny, 2 servers, nothing cached, one core | – | 1.00× |",
    "| loading large, 2 servers, nothing cached, one core | – | 1.00× |",
    "| a whole command with one token, tiny, 1 server, nothing cached, one core | – | 0.50× |",
    "| a whole command with one token, large, 1 server, nothing cached, one core | – | 0.50× |",
  ])
  const again = mergeReports([report(5, "tiny"), report(3, "tiny")])
  expect(again.measured.map(({ samples }) => samples.upstream?.length)).toEqual([6])
  expect(again.measured.map(({ samples }) => samples.ours?.length)).toEqual([6])
  expect(formatReport(again)).toContain(" 6 rounds.")
})
