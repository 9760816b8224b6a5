import { expect, test } from "bun:test"
import type { Wait } from "./Cancels.ts"
import { type ServerWait, WaitWatch } from "./serverWaits.ts"

const waitFor = (place: number, count: number, linked = 0): Wait => ({ place, count, linked })

const none = (count: number): Wait => waitFor(-1, count)

/** What is told of looks once a second. */
const toldOf = (looks: ReadonlyArray<Wait>): ReadonlyArray<ServerWait> => {
  const told: Array<ServerWait> = []
  const watch = new WaitWatch(["a:1", "b:2", "c:3"], (wait) => told.push(wait))
  for (const [second, wait] of looks.entries()) watch.see(wait, second * 1000)
  return told
}

const times = (count: number, wait: Wait): ReadonlyArray<Wait> => Array(count).fill(wait)

test("one wait that lasts is told after 5 s, and at twice the time from there on", () => {
  expect(toldOf(times(25, waitFor(1, 7)))).toEqual([
    { endpoint: "b:2", waitedMs: 5000, isOver: false },
    { endpoint: "b:2", waitedMs: 10_000, isOver: false },
    { endpoint: "b:2", waitedMs: 20_000, isOver: false },
  ])
})

test("its end is told when it was, and the next wait is one of its own", () => {
  const looks = [...times(6, waitFor(0, 1)), none(1), ...times(6, waitFor(1, 2))]
  expect(toldOf(looks)).toEqual([
    { endpoint: "a:1", waitedMs: 5000, isOver: false },
    { endpoint: "a:1", waitedMs: 6000, isOver: true },
    { endpoint: "b:2", waitedMs: 5000, isOver: false },
  ])
})

test("many short waits for one server are none, and neither is an idle engine", () => {
  const short = Array.from({ length: 60 }, (_, count) => waitFor(0, count))
  expect(toldOf([...short, ...times(60, none(60))])).toEqual([])
})

test("a server that nobody named is not told", () => {
  expect(toldOf(times(20, waitFor(3, 1)))).toEqual([])
})

test("servers that add up together are told with the one that is waited for, and with no other one", () => {
  const looks = [...times(6, waitFor(0, 1, 0b101)), ...times(6, waitFor(1, 2, 0b101))]
  expect(toldOf(looks)).toEqual([
    { endpoint: "a:1", others: ["c:3"], waitedMs: 5000, isOver: false },
    { endpoint: "a:1", others: ["c:3"], waitedMs: 6000, isOver: true },
    { endpoint: "b:2", waitedMs: 5000, isOver: false },
  ])
})
