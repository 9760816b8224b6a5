/** The client's record of what a server has stored, against the server's own: none is named that is not there. */
import { expect, test } from "bun:test"
import { STORED_GRAPH_COUNTS } from "@ggml-rpc/protocol"
import fc from "fast-check"
import { newStoredGraphs } from "../packages/client/src/devices/StoredGraphs.ts"
import { graphKey, StoredGraphs } from "../packages/server/src/session/graph/StoredGraphs.ts"

/** One connection with two devices, as commands/graph.ts and commands/buffer.ts use the class. */
class Connection {
  readonly released: number[] = []
  readonly server = new StoredGraphs(2, (native) => this.released.push(native))
  readonly clients = [newStoredGraphs("uid"), newStoredGraphs("uid")]
  built = 0

  /** Returns whether the graph was sent. */
  compute(device: number, uid: readonly [low: number, high: number], buffer: number): boolean {
    const client = this.clients[device]!
    const key = graphKey(...uid)
    if (client.has(...uid)) {
      if (this.server.get(device, key) === undefined) throw new Error(`no graph ${key}`)
      return false
    }
    client.sending(...uid)
    if (uid[0] === 0 && uid[1] === 0) return true
    this.server.makeRoom(device, STORED_GRAPH_COUNTS.uid)
    this.server.put(device, key, { native: ++this.built, buffers: new Set([buffer]), sizeBytes: 1 })
    return true
  }

  free(buffer: number): void {
    for (const client of this.clients) client.freedBuffer()
    this.server.dropTouching(buffer)
  }
}

test("the client names no graph that the server lacks", () => {
  const step = fc.oneof(
    {
      weight: 100,
      arbitrary: fc.record({
        device: fc.integer({ min: 0, max: 1 }),
        low: fc.integer({ min: 0, max: 1500 }),
        high: fc.constantFrom(0, 0, 0, 1),
        buffer: fc.integer({ min: 1, max: 3 }),
      }),
    },
    { weight: 1, arbitrary: fc.record({ freed: fc.integer({ min: 1, max: 3 }) }) },
  )
  fc.assert(
    fc.property(fc.array(step, { minLength: 1500, maxLength: 6000, size: "max" }), (steps) => {
      const connection = new Connection()
      for (const one of steps) {
        if ("freed" in one) connection.free(one.freed)
        else connection.compute(one.device, [one.low, one.high], one.buffer)
      }
      for (const device of [0, 1]) connection.server.clear(device)
      expect(connection.server.sizeBytes).toBe(0)
      // Each graph was freed, and once.
      expect(connection.released.toSorted((a, b) => a - b)).toEqual(
        Array.from({ length: connection.built }, (_, index) => index + 1),
      )
    }),
    { numRuns: 30 },
  )
})

test("more graphs than are kept go round and round", () => {
  const connection = new Connection()
  let sent = 0
  for (let round = 0; round < 3; round++) {
    for (let uid = 1; uid <= STORED_GRAPH_COUNTS.uid + 1; uid++) {
      if (connection.compute(0, [uid, 0], 1)) sent++
    }
  }
  // The one too many clears all, so that none is there when its turn comes.
  expect(sent).toBe(3 * (STORED_GRAPH_COUNTS.uid + 1))
})
