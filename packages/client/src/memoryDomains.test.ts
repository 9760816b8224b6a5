import { expect, test } from "bun:test"
import { domainsOf, plainAddress } from "./memoryDomains.ts"

const host = { domain: "here", freeBytes: 3, totalBytes: 16 }
/** A device of llama.cpp's server that gives a machine's memory. */
const cpu = (address: string, totalBytes: number) => ({
  address,
  freeBytes: totalBytes,
  totalBytes,
})

test("what servers say is believed", () => {
  const said = { domain: "there", address: "10.0.0.2", freeBytes: 5, totalBytes: 8 }
  expect(domainsOf([said, { ...said, domain: "else" }], host)).toEqual(["there", "else"])
})

test("llama.cpp's servers that give a machine's memory are known by their address", () => {
  const [first, second, third] = domainsOf(
    [cpu("10.0.0.2", 8), cpu("10.0.0.2", 8), cpu("10.0.0.3", 8)],
    host,
  )
  expect(first).toBeDefined()
  expect(second).toBe(first)
  expect(third).not.toBe(first)
})

test("two GPUs of one kind at one address are two", () => {
  const gpu = { address: "10.0.0.2", freeBytes: 7, totalBytes: 8 }
  expect(domainsOf([gpu, gpu], host)).toEqual([undefined, undefined])
})

test("beside a server that says it, they share what has the same size", () => {
  const ours = { domain: "there", address: "10.0.0.2", freeBytes: 5, totalBytes: 8 }
  expect(domainsOf([cpu("10.0.0.2", 8), ours], host)).toEqual(["there", "there"])
  expect(domainsOf([cpu("10.0.0.2", 9), ours], host)[0]).not.toBe("there")
})

test("on this machine they share its memory", () => {
  expect(domainsOf([cpu("127.0.0.1", 16), cpu("::1", 16)], host)).toEqual(["here", "here"])
  expect(domainsOf([cpu("127.0.0.1", 12)], host)[0]).not.toBe("here")
})

test("of an address that is not known nothing is", () => {
  expect(domainsOf([cpu("", 16), cpu("", 16)], host)).toEqual([undefined, undefined])
})

test("an IPv4 address is one, also within IPv6", () => {
  expect(plainAddress("::ffff:10.0.0.2")).toBe("10.0.0.2")
  expect(plainAddress("fd00::ffff:1")).toBe("fd00::ffff:1")
})
