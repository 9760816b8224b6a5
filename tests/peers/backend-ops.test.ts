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

test("cases that upstream's server computes right are counted, with the time of their op", async () => {
  await using server = await startUpstreamServer({ threads: 1 })
  const result = await runBackendOps(server.endpoint, {
    params: "^type_a=q4_0,type_b=f32,m=16,n=1,k=256,",
  })
  expect(result.failures).toEqual([])
  expect(result.exitCode).toBe(0)
  expect(result.passedCount).toBeGreaterThan(5)
  expect([...result.opMs.keys()]).toContain("MUL_MAT")
})

test("no case at all, or no server, is a failure", async () => {
  await using server = await startUpstreamServer({ threads: 1 })
  const none = await runBackendOps(server.endpoint, { params: "^no such case$" })
  expect(none.passedCount).toBe(0)
  expect(none.failures.join()).toContain("after 0 cases")
  const unreachable = await runBackendOps(`127.0.0.1:${freePort()}`, { params: "^type=f16,ne=" })
  expect(unreachable.passedCount).toBe(0)
  expect(unreachable.failures).toHaveLength(1)
})
