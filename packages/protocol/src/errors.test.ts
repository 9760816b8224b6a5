import { expect, test } from "bun:test"
import { ProtocolError } from "./index.ts"

test("an error says where, what and the value", () => {
  const error = new ProtocolError({
    command: "HELLO",
    field: "payload_size",
    reason: "must be 24",
    value: 0,
  })
  expect(error).toBeInstanceOf(Error)
  expect(error.name).toBe("ProtocolError")
  expect(error.message).toBe("HELLO: payload_size must be 24 (got 0)")
  expect(new ProtocolError({ field: "header", reason: "is short" }).message).toBe("header is short")
})
