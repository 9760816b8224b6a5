import { expect, setDefaultTimeout, test } from "bun:test"
import { listBackendOpsCases, runBackendOps } from "./backend-ops.ts"
import { backendOpsSubset } from "./backend-ops-subset.ts"
import { freePort, startUpstreamServer } from "./process.ts"

setDefaultTimeout(120_000)

test("the subset holds every op, each case in one part only, and leaves out what is slow", async () => {
  const cases = await listBackendOpsCases()
  expect(cases.length).toBeGreaterThan(15_000)
  const [first, second] = backendOpsSubset.map((params) => new RegExp(params))
  const chosen = cases.filter(({ params }) => first?.test(params) || second?.test(params))
  expect(chosen.filter(({ params }) => first?.test(params) && second?.test(params))).toEqual([])
  const ops = new Set(cases.map(({ op }) => op))
  expect(ops.size).toBeGreaterThan(100)
  expect(new Set(chosen.map(({ op }) => op))).toEqual(ops)
  expect(chosen.length).toBeGreaterThan(5000)
  expect(chosen.length).toBeLessThan(10_000)
})

test("cases that upstream's server computes right are listed", async () => {
  await using server = await startUpstreamServer({ threads: 1 })
  const result = await runBackendOps(server.endpoint, {
    params: "^type_a=q4_0,type_b=f32,m=16,n=1,k=256,",
  })
  expect(result.isComplete).toBe(true)
  expect(result.failed.size).toBe(0)
  expect(result.passed.size).toBeGreaterThan(5)
  expect([...result.passed].every((name) => name.startsWith("MUL_MAT"))).toBe(true)
})

test("no case at all, or no server, passes nothing", async () => {
  await using server = await startUpstreamServer({ threads: 1 })
  const none = await runBackendOps(server.endpoint, { params: "^no such case$" })
  expect(none.passed.size).toBe(0)
  const unreachable = await runBackendOps(`127.0.0.1:${freePort()}`, { params: "^type=f16,ne=" })
  expect(unreachable).toMatchObject({ isComplete: false })
  expect(unreachable.passed.size).toBe(0)
})
