/**
 * No graph that the checks accept makes ggml crash, assert, hang, or touch a byte of another tensor's: opFuzz.ts, with seeds
 * that are always the same and one that is new. GGML_RPC_FUZZ_OPS_SECONDS makes it longer, GGML_RPC_FUZZ_OPS_SEED chooses the
 * new one.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test"
import { libraryNumbering } from "@ggml-rpc/protocol"
import { formatFailures, formatTallies, type OpTally, opFuzz } from "./opFuzz.ts"

const seconds = Number(process.env.GGML_RPC_FUZZ_OPS_SECONDS ?? 45)
const newSeed = Number(process.env.GGML_RPC_FUZZ_OPS_SEED ?? Math.floor(Math.random() * 2 ** 31))

/** Four threads wait for each other at every turn: their cases are few, and those of one thread cover every operation. */
const runs = [
  { threadCount: 1, seed: 1 },
  { threadCount: 1, seed: newSeed },
  { threadCount: 4, seed: newSeed },
]
setDefaultTimeout((seconds + 120) * 1000)

/** Nothing runs them, or they are views. */
const withoutKernel = ["NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE", "FLASH_ATTN_BACK"]
const callbacks = ["MAP_CUSTOM1", "MAP_CUSTOM2", "MAP_CUSTOM3", "CUSTOM"]

describe("changed nodes between guards", () => {
  test.each(runs)("%o", async ({ threadCount, seed }) => {
    const report = await opFuzz({ seed, threadCount, seconds: seconds / runs.length })
    if (seconds > 600) console.log(formatTallies(report))
    expect(formatFailures(report)).toBe("")
    expect(report.brokenControls).toEqual([])
    const isTried = ({ ran, refused }: OpTally): boolean =>
      ran > 0 && (refused > 0 || threadCount > 1)
    const tried = [...report.tallies].filter(([, tally]) => isTried(tally))
    const all = libraryNumbering.ops.filter(
      (op) => !withoutKernel.includes(op) && !callbacks.includes(op),
    )
    expect(tried.map(([op]) => op).toSorted()).toEqual(all.toSorted())
  })
})

/** As long as these take. */
const unchecked = { seed: 1, seconds: 100, isUnchecked: true }

test("what the checks prevent is seen: a crash, an assertion, a stray byte", async () => {
  const ops = ["CLAMP", "SCALE", "GET_ROWS", "MUL_MAT", "OUT_PROD"]
  const report = await opFuzz({ ...unchecked, ops, threadCount: 1, caseCount: 1000 })
  const messages = report.failures.map(({ message }) => message)
  for (const kind of ["SIGSEGV", "GGML_ASSERT", "wrote outside the result"]) {
    expect(messages.filter((message) => message.includes(kind))).not.toEqual([])
  }
  expect(report.brokenControls).toEqual([])
})

test("with several threads a crash ends the process, and another one goes on", async () => {
  const report = await opFuzz({ ...unchecked, ops: ["SCALE"], threadCount: 4, caseCount: 40 })
  const { ran, broken } = report.tallies.get("SCALE")!
  expect(broken).toBeGreaterThan(1)
  expect(ran).toBeGreaterThan(10)
  expect(report.brokenControls).toEqual([])
})
