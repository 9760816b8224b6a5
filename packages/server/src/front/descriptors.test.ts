import { expect, test } from "bun:test"
import { shareDescriptors } from "./descriptors.ts"

const wanted = { clients: 64, handshakes: 512 }

test("there is all that is wanted where descriptors are plenty", () => {
  expect(shareDescriptors(Number.POSITIVE_INFINITY, wanted)).toEqual(wanted)
  expect(shareDescriptors(1000, wanted)).toEqual(wanted)
})

test("few descriptors are for clients first, and all that is shared out fits", () => {
  for (let free = 33; free < 1000; free++) {
    const { clients, handshakes } = shareDescriptors(free, wanted)
    expect(clients).toBeGreaterThanOrEqual(1)
    expect(handshakes).toBeGreaterThanOrEqual(8)
    expect(16 + 4 * (clients + 1) + handshakes).toBeLessThanOrEqual(free)
  }
  expect(shareDescriptors(44, wanted)).toEqual({ clients: 4, handshakes: 8 })
})

test("there is one client at least", () => {
  expect(shareDescriptors(3, wanted)).toEqual({ clients: 1, handshakes: 8 })
})
