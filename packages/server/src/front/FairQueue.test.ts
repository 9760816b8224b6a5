import { expect, test } from "bun:test"
import { FairQueue } from "./FairQueue.ts"

const queueOf = (...items: readonly string[]): FairQueue<string> => {
  const queue = new FairQueue<string>()
  for (const item of items) queue.add(item[0]!, item)
  return queue
}

const takeAll = (queue: FairQueue<string>): string[] => {
  const taken: string[] = []
  for (let item = queue.take(); item !== undefined; item = queue.take()) taken.push(item)
  return taken
}

test("keys take turns, and a key's items keep their order", () => {
  expect(takeAll(queueOf("a1", "a2", "a3", "b1", "c1", "c2"))).toEqual([
    ...["a1", "b1", "c1"],
    ...["a2", "c2"],
    "a3",
  ])
})

test("a key that comes later waits for one item of each other, not for all", () => {
  const queue = queueOf("a1", "a2", "a3")
  expect(queue.take()).toBe("a1")
  queue.add("b", "b1")
  expect(takeAll(queue)).toEqual(["a2", "b1", "a3"])
})

test("a key that may not is passed over, and keeps its turn", () => {
  const queue = queueOf("a1", "b1", "b2")
  expect(queue.take((key) => key === "b")).toBe("b1")
  expect(queue.take((key) => key === "c")).toBeUndefined()
  expect(takeAll(queue)).toEqual(["a1", "b2"])
})

test("an item can be taken out", () => {
  const queue = queueOf("a1", "a2", "b1")
  queue.remove("a", "a1")
  queue.remove("b", "b1")
  queue.remove("b", "b1")
  expect(queue.size).toBe(1)
  expect([...queue.keys]).toEqual(["a"])
  expect(takeAll(queue)).toEqual(["a2"])
  expect(queue.size).toBe(0)
})

test("which key has most", () => {
  expect(new FairQueue().longest).toBeUndefined()
  expect(queueOf("a1", "b1", "b2", "c1").longest).toBe("b")
})
