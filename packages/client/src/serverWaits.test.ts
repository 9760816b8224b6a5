import { expect, test } from "bun:test"
import type { Wait } from "./Cancels.ts"
import { type ServerWait, WaitWatch } from "./serverWaits.ts"

const none = (count: number): Wait => ({ place: -1, count })

/** What is told of looks once a second. */
const toldOf = (looks: ReadonlyArray<Wait>): ReadonlyArray<ServerWait> => {
  const told: Array<ServerWait> = []
  const watch = new WaitWatch(["a:1", "b:2"], (wait) => told.push(wait))
  for (const [second, wait] of looks.entries()) watch.see(wait, second * 1000)
  return told
}

const times = (count: number, wait: Wait): ReadonlyArray<Wait> => Array(count).fill(wait)

test("one wait that lasts is told after 5 s, and at twice the time from there on", () => {
  expect(toldOf(times(25, { place: 1, count: 7 }))).toEqual([
    { endpoint: "b:2", waitedMs: 5000, isOver: false },
    { endpoint: "b:2", waitedMs: 10_000, isOver: false },
    { endpoint: "b:2", waitedMs: 20_000, isOver: false },
  ])
})

test("its end is told when it was, and the next wait is one of its own", () => {
  const looks = [...times(6, { place: 0, count: 1 }), none(1), ...times(6, { place: 1, count: 2 })]
  expect(toldOf(looks)).toEqual([
    { endpoint: "a:1", waitedMs: 5000, isOver: false },
    { endpoint: "a:1", waitedMs: 6000, isOver: true },
    { endpoint: "b:2", waitedMs: 5000, isOver: false },
  ])
})

test("many short waits for one server are none, and neither is an idle engine", () => {
  const short = Array.from({ length: 60 }, (_, count) => ({ place: 0, count }))
  expect(toldOf([...short, ...times(60, none(60))])).toEqual([])
})

test("a server that nobody named is not told", () => {
  expect(toldOf(times(20, { place: 2, count: 1 }))).toEqual([])
})
