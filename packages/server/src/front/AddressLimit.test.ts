import { expect, test } from "bun:test"
import { AddressLimit } from "./AddressLimit.ts"

const limitAt = (rate: { burst: number; perSecond: number }) => {
  let now = 1000
  return {
    limit: new AddressLimit(rate, () => now),
    pass: (ms: number) => {
      now += ms
    },
  }
}

test("a burst is free, then there is a wait, which time shortens", () => {
  const { limit, pass } = limitAt({ burst: 3, perSecond: 2 })
  for (let times = 0; times < 3; times++) {
    expect(limit.waitMs("a")).toBe(0)
    limit.count("a")
  }
  expect(limit.waitMs("a")).toBe(500)
  pass(200)
  expect(limit.waitMs("a")).toBeCloseTo(300)
  pass(300)
  expect(limit.waitMs("a")).toBe(0)
  limit.count("a")
  expect(limit.waitMs("a")).toBe(500)
})

test("a pause brings the whole burst back, and no more", () => {
  const { limit, pass } = limitAt({ burst: 2, perSecond: 10 })
  limit.count("a")
  pass(3_600_000)
  limit.count("a")
  limit.count("a")
  expect(limit.waitMs("a")).toBeCloseTo(100)
})

test("one address's use is not another's", () => {
  const { limit } = limitAt({ burst: 1, perSecond: 1 })
  limit.count("a")
  expect(limit.waitMs("a")).toBe(1000)
  expect(limit.waitMs("b")).toBe(0)
})

test("what could not be kept from happening makes the wait longer, within bounds", () => {
  const { limit } = limitAt({ burst: 2, perSecond: 1 })
  limit.count("a", 3)
  expect(limit.waitMs("a")).toBe(2000)
  for (let times = 0; times < 1000; times++) limit.count("a")
  expect(limit.waitMs("a")).toBe(3000)
})

test("addresses used longest ago are forgotten", () => {
  const { limit } = limitAt({ burst: 1, perSecond: 1 })
  limit.count("first")
  for (let address = 0; address < 5000; address++) limit.count(String(address))
  expect(limit.waitMs("first")).toBe(0)
  expect(limit.waitMs("4999")).toBe(1000)
})
