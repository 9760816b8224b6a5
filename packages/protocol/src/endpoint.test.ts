import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import {
  EndpointError,
  formatEndpoint,
  isLoopback,
  parseEndpoint,
  parseEndpoints,
} from "./endpoint.ts"

const errorOf = (read: () => unknown): EndpointError => {
  try {
    read()
  } catch (error) {
    if (error instanceof EndpointError) return error
    throw error
  }
  throw new Error("nothing was thrown")
}

describe("an endpoint", () => {
  test.each([
    ["127.0.0.1:50052", "127.0.0.1", 50052],
    ["box:1", "box", 1],
    ["box.local:65535", "box.local", 65535],
    ["  spaced:7 ", "spaced", 7],
    ["[::1]:50052", "::1", 50052],
    ["[fe80::1%eth0]:9", "fe80::1%eth0", 9],
    ["box:0050", "box", 50],
  ])("%j is %s and %d", (text, host, port) => {
    expect(parseEndpoint(text)).toEqual({ host, port })
  })

  test.each([
    ["", "it is empty"],
    ["   ", "it is empty"],
    ["box", "the port is missing"],
    ["box:", "the port is missing"],
    [":50052", "the host is missing"],
    ["[]:50052", "the host is missing"],
    ["[::1]", "the port is missing"],
    ["[::1]50052", "the port is missing"],
    ["::1:50052", "an IPv6 address needs brackets around it"],
    ["http://box:1", "it is a URL"],
    ["a:b:1", "an IPv6 address needs brackets around it"],
    ["fe80::1%eth0:1", "an IPv6 address needs brackets around it"],
    ["host:1:2", "it has more than one ':', and only one port"],
    ["a:1 b:2", "several are separated by commas"],
    ["a:1;b:2", "several are separated by commas"],
    ["box:0", "the port '0' is not a number from 1 to 65535"],
    ["box:65536", "the port '65536' is not a number"],
    ["box:port", "the port 'port' is not a number"],
    ["box:-1", "the port '-1' is not a number"],
    ["box:1.5", "the port '1.5' is not a number"],
    ["box:99999999999999999999", "is not a number from 1 to 65535"],
  ])("%j is none", (text, reason) => {
    const error = errorOf(() => parseEndpoint(text))
    expect(error._tag).toBe("EndpointError")
    expect(error.message).toContain(reason)
    expect(error.message).toContain(`'${text}' is not an endpoint`)
    expect(error.message).toContain("Write host:port")
  })

  test("is written as it is read", () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.ipV4(), fc.ipV6(), fc.domain()),
        fc.integer({ min: 1, max: 65535 }),
        (host, port) => {
          const endpoint = { host, port }
          expect(parseEndpoint(formatEndpoint(endpoint))).toEqual(endpoint)
        },
      ),
      { seed: 5 },
    )
  })

  test("any text is one, or a typed error", () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(..."[]:.0159a %,\t") }), (text) => {
        try {
          const { host, port } = parseEndpoint(text)
          expect(host).not.toBe("")
          expect(port).toBeGreaterThan(0)
        } catch (error) {
          if (!(error instanceof EndpointError)) throw error
        }
      }),
      { seed: 5, numRuns: 2000 },
    )
  })
})

describe("a list of endpoints", () => {
  test("keeps the order, and each once", () => {
    expect(parseEndpoints("b:2, a:1,b:2,[::1]:3,")).toEqual([
      { host: "b", port: 2 },
      { host: "a", port: 1 },
      { host: "::1", port: 3 },
    ])
  })

  test("of nothing is empty", () => {
    expect(parseEndpoints("")).toEqual([])
    expect(parseEndpoints(" , ")).toEqual([])
  })

  test("fails with the first that is none", () => {
    const error = errorOf(() => parseEndpoints("a:1,b,c:x"))
    expect(error.text).toBe("b")
  })
})

test("who can reach an address", () => {
  expect(formatEndpoint({ host: "127.0.0.1", port: 1 })).toBe("127.0.0.1:1")
  expect(formatEndpoint({ host: "::1", port: 50052 })).toBe("[::1]:50052")
  for (const host of ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
    expect(isLoopback(host)).toBe(true)
  for (const host of ["0.0.0.0", "::", "10.0.0.1", "box", "127.0.0.1.example"])
    expect(isLoopback(host)).toBe(false)
})
