/**
 * A minute of damaged sessions against a running server, while a real client runs a model on it over and
 * over. GGML_RPC_FUZZ_SEED and GGML_RPC_FUZZ_SECONDS choose another one.
 */
import { expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { formatVersion, versions } from "@ggml-rpc/protocol"
import { fuzz } from "../packages/server/test/fuzz.ts"
import { ensureModel } from "./models/models.ts"
import { waitUntil } from "./peers/process.ts"
import { recite, startOurServer } from "./servers.ts"

const seed = Number(process.env.GGML_RPC_FUZZ_SEED ?? 20_260_801)
const seconds = Number(process.env.GGML_RPC_FUZZ_SECONDS ?? 30)
setDefaultTimeout((seconds + 60) * 1000)

test(`${seconds} seconds of damaged sessions, seed ${seed}, harm no other client`, async () => {
  const names = versions.map(({ version }) => formatVersion(version))
  const state = mkdtempSync(join(tmpdir(), "fuzz-"))
  await using server = await startOurServer({
    flags: ["--listen", names.map((name) => `0=${name}`).join(","), "--no-address-limits"],
    env: { XDG_STATE_HOME: state },
  })
  const pinnedPorts = [...server.stdout().matchAll(/^listening on .+:(\d+) for protocol/gm)].map(
    ([, port]) => Number(port),
  )
  expect(pinnedPorts).toHaveLength(names.length)
  const path = await ensureModel("tiny")
  const request = { prompt: [1, 17, 290, 3], maxTokens: 24 }
  const { tokens: expected } = await recite([], path, request)
  let isRunning = true
  const reciting = (async () => {
    let rounds = 0
    for (; isRunning; rounds++) {
      const { tokens } = await recite([server.endpoint], path, request)
      if (!Bun.deepEquals(tokens, expected)) throw new Error(`round ${rounds} gave ${tokens}`)
    }
    return rounds
  })()
  const fuzzing = fuzz({
    port: server.port,
    pinnedPorts,
    seed,
    durationMs: seconds * 1000,
  }).finally(() => {
    isRunning = false
  })
  const [report, rounds] = await Promise.all([fuzzing, reciting])

  // That each of them did something; how much depends on the machine.
  expect(report.sessionCount).toBeGreaterThan(10)
  expect(report.requestCount).toBeGreaterThan(10)
  expect(report.endedCount).toBeGreaterThan(report.sessionCount / 4)
  expect(report.witnessRounds).toBeGreaterThan(10)
  expect(rounds).toBeGreaterThan(0)
  expect(server.isRunning()).toBe(true)
  // The spare session is left, and maybe one more that ends later.
  expect(await waitUntil(() => server.sessionPids().length <= 2, 15_000)).toBe(true)
  const { tokens } = await recite([server.endpoint], path, request)
  expect(tokens).toEqual(expected)
  rmSync(state, { recursive: true })
})
