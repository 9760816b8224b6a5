import { expect, test } from "bun:test"
import * as Either from "effect/Either"
import { parseEndpoint, parseEndpoints } from "./parseEndpoint.ts"

test("endpoints, and what is none, are values", () => {
  expect(parseEndpoint("[::1]:7")).toEqual(Either.right({ host: "::1", port: 7 }))
  expect(parseEndpoints("b:2, a:1,b:2")).toEqual(
    Either.right([
      { host: "b", port: 2 },
      { host: "a", port: 1 },
    ]),
  )
  const none = { _tag: "EndpointError", text: "b" }
  expect(Either.getOrThrow(Either.flip(parseEndpoint("b")))).toMatchObject(none)
  expect(Either.getOrThrow(Either.flip(parseEndpoints("a:1,b,c:x")))).toMatchObject(none)
})
