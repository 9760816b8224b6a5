import { beforeEach, expect, test } from "bun:test"
import { StoredGraphs } from "./StoredGraphs.ts"

let released: number[]
let stored: StoredGraphs

beforeEach(() => {
  released = []
  stored = new StoredGraphs(2, (native) => released.push(native))
})

const graph = (native: number, ...buffers: readonly number[]) => ({
  native,
  buffers: new Set(buffers),
  sizeBytes: 10,
})

test("graphs are kept by device and key", () => {
  stored.put(0, 7, graph(100))
  stored.put(1, 7, graph(200))
  stored.put(0, 8, graph(101))
  expect(stored.get(0, 7)?.native).toBe(100)
  expect(stored.get(1, 7)?.native).toBe(200)
  expect(stored.get(1, 8)).toBeUndefined()
  expect(released).toEqual([])
})

test("a graph takes the place of the one under its key", () => {
  stored.put(0, 7, graph(100))
  stored.put(0, 7, graph(101))
  expect(stored.get(0, 7)?.native).toBe(101)
  expect(released).toEqual([100])
  expect(stored.sizeBytes).toBe(10)
})

test("those that touch a buffer go, on every device, and are released once", () => {
  stored.put(0, 1, graph(100, 5, 6))
  stored.put(0, 2, graph(101, 6))
  stored.put(1, 1, graph(200, 5))
  stored.dropTouching(5)
  expect(released).toEqual([100, 200])
  expect([stored.get(0, 1), stored.get(1, 1)]).toEqual([undefined, undefined])
  expect(stored.get(0, 2)?.native).toBe(101)
  expect(stored.sizeBytes).toBe(10)
  stored.dropTouching(5)
  stored.clear(0)
  stored.clear(1)
  expect(released).toEqual([100, 200, 101])
})

test("a full device is emptied, and counts the keys of dropped graphs too", () => {
  stored.put(0, 1, graph(100, 5))
  stored.put(0, 2, graph(101))
  stored.makeRoom(0, 3)
  expect(released).toEqual([])
  stored.dropTouching(5)
  stored.makeRoom(0, 2)
  expect(released).toEqual([100, 101])
  expect(stored.get(0, 2)).toBeUndefined()
})
