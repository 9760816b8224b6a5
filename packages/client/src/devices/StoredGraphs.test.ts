import { describe, expect, test } from "bun:test"
import { STORED_GRAPH_COUNTS } from "@ggml-rpc/protocol"
import fc from "fast-check"
import { newStoredGraphs, type StoredGraphs } from "./StoredGraphs.ts"

/** What a server of 8.0.0 does with one device's graphs; it hangs up where this throws. */
class ServerModel {
  /** uid to whether its graph is still there. */
  private readonly entries = new Map<number, boolean>()

  compute(uid: number): void {
    if (uid === 0) return
    if (this.entries.size >= STORED_GRAPH_COUNTS.uid) this.entries.clear()
    this.entries.set(uid, true)
  }

  recompute(uid: number): void {
    if (this.entries.get(uid) !== true) throw new Error(`no graph ${uid}`)
  }

  freeBuffer(): void {
    for (const uid of this.entries.keys()) this.entries.set(uid, false)
  }

  has(uid: number): boolean {
    return this.entries.get(uid) === true
  }
}

/** The client's part: a graph goes out whole unless the server has it. Returns whether it did. */
const run = (graphs: StoredGraphs, server: ServerModel, uid: number): boolean => {
  if (graphs.has(uid, 0)) {
    server.recompute(uid)
    return false
  }
  graphs.sending(uid, 0)
  server.compute(uid)
  return true
}

describe("graphs by uid", () => {
  test("are asked for by uid after the first time, several in turn", () => {
    const graphs = newStoredGraphs("uid")
    const server = new ServerModel()
    expect([1, 2, 1, 2, 3, 1].map((uid) => run(graphs, server, uid))).toEqual([
      ...[true, true, false, false, true, false],
    ])
  })

  test("without a uid always go out whole", () => {
    const graphs = newStoredGraphs("uid")
    const server = new ServerModel()
    expect([0, 0].map((uid) => run(graphs, server, uid))).toEqual([true, true])
  })

  test("go out whole after a buffer was freed, and count on", () => {
    const graphs = newStoredGraphs("uid")
    const server = new ServerModel()
    for (let uid = 1; uid <= STORED_GRAPH_COUNTS.uid; uid++) run(graphs, server, uid)
    graphs.freedBuffer()
    server.freeBuffer()
    // The server is full: even one of its own entries makes it forget the others.
    expect(run(graphs, server, 1)).toBe(true)
    expect(run(graphs, server, 1)).toBe(false)
    expect(graphs.has(2, 0)).toBe(false)
  })

  test("uids that differ in their high half are different graphs", () => {
    const graphs = newStoredGraphs("uid")
    graphs.sending(1, 2)
    expect([graphs.has(1, 2), graphs.has(2, 1), graphs.has(1, 0)]).toEqual([true, false, false])
  })

  test("the client names no graph that the server lacks, and no more are sent than need be", () => {
    const step = fc.oneof(
      { weight: 60, arbitrary: fc.integer({ min: 0, max: 1400 }) },
      { weight: 1, arbitrary: fc.constant("free" as const) },
      // Many in turn: past the limit.
      { weight: 4, arbitrary: fc.record({ from: fc.integer({ min: 1, max: 1400 }) }) },
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const graphs = newStoredGraphs("uid")
        const server = new ServerModel()
        for (const next of steps) {
          if (next === "free") {
            graphs.freedBuffer()
            server.freeBuffer()
          } else if (typeof next === "number") {
            const isThere = server.has(next)
            expect(run(graphs, server, next)).toBe(!isThere)
          } else {
            for (let index = 0; index < 300; index++) run(graphs, server, next.from + index)
          }
        }
      }),
      { numRuns: 200 },
    )
  })
})

test("the last graph is known until another comes or a buffer goes", () => {
  const graphs = newStoredGraphs("last")
  graphs.sending(7, 1)
  expect([graphs.has(7, 1), graphs.has(7, 0), graphs.has(0, 0)]).toEqual([true, false, false])
  graphs.sending(8, 0)
  expect(graphs.has(7, 1)).toBe(false)
  graphs.freedBuffer()
  expect(graphs.has(8, 0)).toBe(false)
  graphs.sending(0, 0)
  expect(graphs.has(0, 0)).toBe(false)
})

test("versions that store no graph get each one whole", () => {
  const graphs = newStoredGraphs("none")
  graphs.sending(7, 0)
  expect(graphs.has(7, 0)).toBe(false)
})
