import { expect, test } from "bun:test"
import { Command } from "@ggml-rpc/protocol"
import { SessionStats } from "./SessionStats.ts"

test("requests are counted by command and class of time, and told once", () => {
  const stats = new SessionStats()
  stats.note(Command.GET_TENSOR, 0.05)
  stats.note(Command.GET_TENSOR, 0.1)
  stats.note(Command.GET_TENSOR, 5)
  stats.note(Command.GRAPH_COMPUTE, 20_000)
  stats.receivedBytes += 10
  stats.sentBytes += 3
  stats.cacheHits++
  expect(stats.take()).toEqual({
    commands: [
      { command: "GET_TENSOR", ms: expect.closeTo(5.15), counts: [2, 0, 1, 0, 0, 0, 0] },
      { command: "GRAPH_COMPUTE", ms: 20_000, counts: [0, 0, 0, 0, 0, 0, 1] },
    ],
    receivedBytes: 10,
    sentBytes: 3,
    cacheHits: 1,
    cacheMisses: 0,
  })
  const nothing = { receivedBytes: 0, sentBytes: 0, cacheHits: 0, cacheMisses: 0 }
  expect(stats.take()).toEqual({ commands: [], ...nothing })
  stats.note(Command.GET_TENSOR, 0)
  expect(stats.take().commands).toEqual([
    { command: "GET_TENSOR", ms: 0, counts: [1, 0, 0, 0, 0, 0, 0] },
  ])
})
