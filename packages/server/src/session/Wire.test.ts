import { expect, test } from "bun:test"
import { extensionCommands } from "@ggml-rpc/protocol"
import { REQUEST_BYTES } from "./Wire.ts"

test("a sum of as many devices as there may be is taken where there is room for it", () => {
  expect(extensionCommands.ALL_REDUCE_DEVICES.maxRequestBytes).toBeLessThanOrEqual(REQUEST_BYTES)
})
