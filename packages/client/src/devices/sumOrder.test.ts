import { expect, test } from "bun:test"
import { sumOrder } from "./sumOrder.ts"

/** How many values each server has left of those that it cannot add up alone, by the steps of ggml's all-reduce. */
const rootsOf = (servers: ReadonlyArray<string>): Readonly<Record<string, number>> => {
  const holders: Array<string | undefined> = [...servers]
  const roots: Record<string, number> = {}
  for (const server of servers) roots[server] = (roots[server] ?? 0) + 1
  const add = (into: number, other: number): void => {
    if (holders[into] !== undefined && holders[into] === holders[other]) roots[holders[into]]!--
    else holders[into] = undefined
  }
  let whole = 1
  while (whole * 2 <= servers.length) whole *= 2
  for (let other = whole; other < servers.length; other++) add(other - whole, other)
  for (let offset = whole / 2; offset >= 1; offset /= 2) {
    for (let into = 0; into < offset; into++) add(into, into + offset)
  }
  return roots
}

test.each([
  ["ab", { a: 1, b: 1 }],
  ["aabb", { a: 1, b: 1 }],
  ["abb", { a: 1, b: 1 }],
  ["aaaabbbb", { a: 1, b: 1 }],
  ["aabbccdd", { a: 1, b: 1, c: 1, d: 1 }],
  ["aaaabbcc", { a: 1, b: 1, c: 1 }],
  ["cbbaaaa", { a: 1, b: 1, c: 1 }],
  // Of a tree over six leaves no three branches have two each.
  ["aabbcc", { a: 1, b: 2, c: 2 }],
])("of devices on %s servers have so much left to send: %j", (text, expected) => {
  const servers = [...text]
  const order = sumOrder(servers)
  expect(order.toSorted()).toEqual(servers.map((_, device) => device))
  expect(rootsOf(order.map((device) => servers[device]!))).toEqual(expected)
})

test("where it changes nothing, devices keep their order", () => {
  expect(sumOrder(["a", "b", "c"])).toEqual([0, 1, 2])
  expect(sumOrder(["a", "a", "a"])).toEqual([0, 1, 2])
  expect(sumOrder([])).toEqual([])
})
