import { expect, test } from "bun:test"
import * as Either from "effect/Either"
import { AllowList, privateRanges } from "./AllowList.ts"

const listOf = (...ranges: string[]): AllowList => Either.getOrThrow(AllowList.of(ranges))

test.each([
  ["127.0.0.1", true],
  ["10.200.3.4", true],
  ["172.31.255.255", true],
  ["172.32.0.0", false],
  ["192.168.1.5", true],
  ["100.64.0.1", true],
  ["100.128.0.1", false],
  ["8.8.8.8", false],
  ["::1", true],
  ["fd12:3456::1", true],
  ["fe80::1%eth0", true],
  ["2001:db8::1", false],
  ["::ffff:192.168.1.5", true],
  ["::ffff:8.8.8.8", false],
])("of private ranges, %s: %p", (address, expected) => {
  expect(listOf(...privateRanges).has(address)).toBe(expected)
})

test("ranges, single addresses, and everything", () => {
  const list = listOf("10.1.0.0/16", "192.0.2.7", "2001:db8::/32")
  for (const address of ["10.1.2.3", "192.0.2.7", "2001:db8:1::5"])
    expect(list.has(address)).toBe(true)
  for (const address of ["10.2.0.1", "192.0.2.8", "::1"]) expect(list.has(address)).toBe(false)
  const all = listOf("0.0.0.0/0", "::/0")
  for (const address of ["8.8.8.8", "2001:db8::1"]) expect(all.has(address)).toBe(true)
})

test.each([
  "",
  "10.0.0.0/33",
  "10.0.0/8",
  "::/129",
  "10.0.0.0/x",
  "10.0.0.0/8/8",
  "host",
  "10.0.0.0/-1",
])("'%s' is no range", (range) => {
  const error = Either.getOrThrow(Either.flip(AllowList.of([range])))
  expect(error.message).toContain(`'${range}'`)
})
