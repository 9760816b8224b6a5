/** Who may use a server. */
import { expect, test } from "bun:test"
import { TestClient } from "./TestClient.ts"
import { withServer } from "./withServer.ts"

test("a connection from an address that is not allowed is closed at once, and said", () =>
  withServer({ allow: ["192.0.2.0/24"] }, async ({ port, logged, processIds }) => {
    const before = processIds()
    const client = await TestClient.open(port)
    await client.closed
    await logged("turned away: its address is not among those that may use this server")
    expect(processIds()).toEqual(before)
  }))

test("an allowed address is served", () =>
  withServer({ allow: ["192.0.2.0/24", "127.0.0.1"] }, async ({ port }) => {
    const client = await TestClient.connect(port)
    expect(await client.allocate(64)).toBeDefined()
    client.close()
  }))
