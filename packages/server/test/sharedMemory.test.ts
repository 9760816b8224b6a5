/** Servers that give the same memory: what they tell clients of that, and that none promises what another one has. */
import { afterAll, expect, test } from "bun:test"
import { chmodSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { hostDomain } from "@ggml-rpc/native/bindings"
import { Command, decodeExtensionResponse, encodeExtensionRequest } from "@ggml-rpc/protocol"
import { TestClient } from "./TestClient.ts"
import { withServer } from "./withServer.ts"

const folder = mkdtempSync(join(tmpdir(), "ggml-rpc-shared-memory-"))
afterAll(() => rmSync(folder, { recursive: true }))

const domainOf = async (client: TestClient, device = 0) => {
  client.write(encodeExtensionRequest("MEMORY_DOMAIN", { device }))
  const header = await client.read(8)
  const size = new DataView(header.buffer, header.byteOffset).getUint32(0, true)
  const { server, domain } = decodeExtensionResponse("MEMORY_DOMAIN", await client.read(size))
  return { server: server.toHex(), domain: domain.toHex() }
}

const ask = async (port: number, device = 0) => {
  const client = await TestClient.connect(port)
  const told = await domainOf(client, device)
  client.close()
  return told
}

test("two devices of one memory, and two servers of one host, have one domain", () =>
  withServer({ devices: ["CPU", "CPU"], listen: [{ port: 0, protocol: "2.0" }] }, (first) =>
    withServer({}, async (second) => {
      const told = await ask(first.port)
      expect(await ask(first.port, 1)).toEqual(told)
      const other = await ask(second.port)
      expect(other.domain).toBe(told.domain)
      expect(other.server).not.toBe(told.server)
      expect(told.domain).toBe(hostDomain("").toHex())
      // Every port of a server, in whatever version, is that server.
      const [pinned] = first.pinned
      expect(await ask(Number(pinned!.endpoint.split(":").at(-1)))).toEqual(told)
    }),
  ))

test("a device that does not exist is refused", () =>
  withServer({}, async ({ port, logged }) => {
    const client = await TestClient.connect(port)
    client.write(encodeExtensionRequest("MEMORY_DOMAIN", { device: 1 }))
    await client.closed
    await logged("MEMORY_DOMAIN: device must be below the device count 1")
  }))

const freeOf = async (client: TestClient): Promise<number> =>
  Number((await client.ask(Command.GET_DEVICE_MEMORY, { device: 0 })).freeBytes)

const tries = async (client: TestClient, sizeBytes: number): Promise<boolean> => {
  const request = { device: 0, sizeBytes: BigInt(Math.floor(sizeBytes)) }
  return (await client.ask(Command.ALLOC_BUFFER, request)).remotePtr !== 0n
}

test("what a server promised, another one of the host counts as taken, until the session is over", () =>
  withServer({ ledgerFolder: folder }, (first) =>
    withServer({ ledgerFolder: folder }, async (second) => {
      const [one, two] = await Promise.all(
        [first, second].map(({ port }) => TestClient.connect(port)),
      )
      const free = await freeOf(two!)
      expect(await tries(one!, 0.6 * free)).toBe(true)
      expect(await freeOf(two!)).toBeLessThan(0.5 * free)
      expect(await tries(two!, 0.6 * free)).toBe(false)
      one!.close()
      let got = false
      for (let round = 0; round < 200 && !got; round++) {
        got = await tries(two!, 0.6 * free)
        if (!got) await Bun.sleep(25)
      }
      expect(got).toBe(true)
      two!.close()
    }),
  ))

test("a limit of one server is not used up by another", () =>
  withServer({ ledgerFolder: folder, memoryLimitBytes: 2 ** 26 }, (first) =>
    withServer({ ledgerFolder: folder, memoryLimitBytes: 2 ** 26 }, async (second) => {
      const [one, two] = await Promise.all(
        [first, second].map(({ port }) => TestClient.connect(port)),
      )
      expect(await tries(one!, 2 ** 26)).toBe(true)
      expect(await freeOf(one!)).toBe(0)
      expect(await freeOf(two!)).toBe(2 ** 26)
      one!.close()
      two!.close()
    }),
  ))

test("without a file of its own a server goes on alone, and says so", async () => {
  const open = mkdtempSync(join(folder, "open-"))
  chmodSync(open, 0o777)
  await withServer({ ledgerFolder: open }, async ({ port, logged }) => {
    await logged("what memory other servers of this machine promise", `others may use ${open}`)
    const client = await TestClient.connect(port)
    expect(await tries(client, 2 ** 20)).toBe(true)
    client.close()
  })
})
