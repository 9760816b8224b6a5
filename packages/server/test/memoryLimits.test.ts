/** How much memory clients get, of what there is and of what they may have. */
import { expect, test } from "bun:test"
import { Command } from "@ggml-rpc/protocol"
import { TestClient } from "./TestClient.ts"
import { withServer } from "./withServer.ts"

const MIB = 2 ** 20

const freeOf = async (client: TestClient): Promise<number> =>
  Number((await client.ask(Command.GET_DEVICE_MEMORY, { device: 0 })).freeBytes)

/** Whether the client got a buffer. */
const tries = async (client: TestClient, sizeBytes: number): Promise<boolean> => {
  const request = { device: 0, sizeBytes: BigInt(Math.floor(sizeBytes)) }
  return (await client.ask(Command.ALLOC_BUFFER, request)).remotePtr !== 0n
}

test("24 clients that ask at once for a quarter each get four", () =>
  withServer({ memoryLimitBytes: 400 * MIB, spareCount: 24 }, async ({ port }) => {
    const clients = await Promise.all(Array.from({ length: 24 }, () => TestClient.connect(port)))
    const grants = await Promise.all(clients.map((client) => tries(client, 100 * MIB)))
    expect(grants.filter(Boolean)).toHaveLength(4)
    // What one gives back, another gets.
    clients[grants.indexOf(true)]!.close()
    const next = clients[grants.indexOf(false)]!
    let got = false
    for (let round = 0; round < 200 && !got; round++) {
      got = await tries(next, 100 * MIB)
      if (!got) await Bun.sleep(25)
    }
    expect(got).toBe(true)
    for (const client of clients) client.close()
  }))

test("the same of the machine's own memory", () =>
  withServer({ spareCount: 12 }, async ({ port }) => {
    const clients = await Promise.all(Array.from({ length: 12 }, () => TestClient.connect(port)))
    // More than a third, less than a half: two fit.
    const share = 0.4 * (await freeOf(clients[0]!))
    const grants = await Promise.all(clients.map((client) => tries(client, share)))
    expect(grants.filter(Boolean)).toHaveLength(2)
    for (const client of clients) client.close()
  }))

test("a client is told what it would get, and gets no more", () =>
  withServer(
    { memoryLimitBytes: 300 * MIB, clientMemoryLimitBytes: 200 * MIB },
    async ({ port }) => {
      const first = await TestClient.connect(port)
      expect(await freeOf(first)).toBe(200 * MIB)
      expect(await tries(first, 201 * MIB)).toBe(false)
      expect(await tries(first, 150 * MIB)).toBe(true)
      expect(await freeOf(first)).toBe(50 * MIB)
      const second = await TestClient.connect(port)
      expect(await freeOf(second)).toBe(150 * MIB)
      expect(await tries(second, 151 * MIB)).toBe(false)
      expect(await tries(second, 150 * MIB)).toBe(true)
      expect(await freeOf(first)).toBe(0)
      first.close()
      second.close()
    },
  ))
