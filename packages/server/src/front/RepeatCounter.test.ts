import { expect, test } from "bun:test"
import type { LogEntry } from "./log.ts"
import { RepeatCounter } from "./RepeatCounter.ts"

const WINDOW_MS = 50

const start = () => {
  const lines: string[] = []
  const counter = new RepeatCounter(({ message }) => lines.push(message), WINDOW_MS)
  const error = (message: string, address?: string): void =>
    counter.log({ level: "error", message, ...(address === undefined ? {} : { address }) })
  return { lines, counter, error }
}

test("the first line of a kind is written at once, the others are counted in one", async () => {
  const { lines, error } = start()
  for (let port = 1; port <= 1000; port++) {
    error(`10.0.0.1:${port} disconnected: ne[0] must be below 4 (got ${port * 3})`, "10.0.0.1")
  }
  expect(lines).toEqual(["10.0.0.1:1 disconnected: ne[0] must be below 4 (got 3)"])
  await Bun.sleep(2 * WINDOW_MS)
  expect(lines.slice(1)).toEqual([
    "10.0.0.1:1000 disconnected: ne[0] must be below 4 (got 3000) (999 like it in 0 s)",
  ])
})

test("a flood is one line a window, and a pause ends it", async () => {
  const { lines, error } = start()
  for (let times = 0; times < 40; times++) {
    error(`10.0.0.1:${times} disconnected: no`, "10.0.0.1")
    await Bun.sleep(5)
  }
  expect(lines.length).toBeGreaterThanOrEqual(3)
  expect(lines.length).toBeLessThanOrEqual(10)
  await Bun.sleep(4 * WINDOW_MS)
  const before = lines.length
  error("10.0.0.1:99 disconnected: no", "10.0.0.1")
  expect(lines.slice(before)).toEqual(["10.0.0.1:99 disconnected: no"])
})

test("other addresses, reasons and levels are other kinds, and so are other numbers in lines about nobody", () => {
  const { lines, error, counter } = start()
  error("10.0.0.1:1 died", "10.0.0.1")
  error("10.0.0.2:1 died", "10.0.0.2")
  error("10.0.0.1:1 disconnected", "10.0.0.1")
  counter.log({ level: "warning", message: "10.0.0.1:1 died", address: "10.0.0.1" })
  error("offered 8.0")
  error("offered 7.0")
  error("offered 7.0")
  expect(lines).toHaveLength(6)
  counter.close()
  expect(lines.slice(6)).toEqual(["offered 7.0"])
})

test("lines with ever other texts are counted as well", () => {
  const { lines, error, counter } = start()
  const letters = (number: number): string =>
    number.toString(2).replace(/0/g, "a").replace(/1/g, "b")
  for (let times = 0; times < 5000; times++) error(`wants ${letters(times)}`, "10.0.0.1")
  for (let times = 0; times < 5000; times++) error(`no ${letters(times)}`)
  counter.close()
  expect(lines.length).toBeLessThan(1100)
  expect(lines.filter((line) => line.includes("like it"))).toHaveLength(2)
})

test("debug lines all pass", () => {
  const lines: LogEntry[] = []
  const counter = new RepeatCounter((entry) => lines.push(entry), WINDOW_MS)
  for (let times = 0; times < 10; times++) counter.log({ level: "debug", message: "same" })
  expect(lines).toHaveLength(10)
})
