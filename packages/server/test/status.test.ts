/** STATUS: how a server is, as it tells who asks. */
import { expect, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { availableParallelism, tmpdir } from "node:os"
import { join } from "node:path"
import { encodeExtensionRequest, REQUEST_HEADER_SIZE_BYTES } from "@ggml-rpc/protocol"
import { TestClient } from "./TestClient.ts"
import { withServer } from "./withServer.ts"

interface Told {
  readonly clientCount: number
  readonly servedCount: number
  readonly uptimeMs: number
  readonly [field: string]: unknown
}

const ask = async (client: TestClient): Promise<Told> => {
  client.write(encodeExtensionRequest("STATUS", {}))
  const header = await client.read(8)
  const size = new DataView(header.buffer, header.byteOffset).getUint32(0, true)
  return JSON.parse(new TextDecoder().decode(await client.read(size))) as Told
}

/** Asks until it is so: what happens to clients is written a moment later. */
const askUntil = async (client: TestClient, is: (told: Told) => boolean): Promise<Told> => {
  let told = await ask(client)
  for (let tries = 0; tries < 200 && !is(told); tries++) {
    await Bun.sleep(10)
    told = await ask(client)
  }
  return told
}

test("tells version, uptime, load, devices, and the clients but the one who asks", () =>
  withServer({ maxClients: 5 }, async ({ port, devices }) => {
    const asking = await TestClient.connect(port)
    const alone = await askUntil(asking, ({ servedCount }) => servedCount === 1)
    expect(alone).toMatchObject({
      software: expect.stringMatching(/^\d+\.\d+\.\d+$/),
      clientCount: 0,
      maxClients: 5,
      servedCount: 1,
      load: { average: expect.any(Number), coreCount: availableParallelism() },
      devices: [{ name: devices[0]!.name, description: devices[0]!.description }],
    })
    expect(alone.cache).toBeUndefined()
    expect(alone.uptimeMs).toBeLessThan(60_000)
    const [one, two] = await Promise.all([TestClient.connect(port), TestClient.connect(port)])
    // One of them waits for its process at first.
    const three = await askUntil(asking, ({ servedCount }) => servedCount === 3)
    expect(three).toMatchObject({ clientCount: 2, servedCount: 3 })
    one.close()
    expect((await askUntil(asking, ({ clientCount }) => clientCount === 1)).clientCount).toBe(1)
    // Who they are is not in it.
    expect(JSON.stringify(await ask(asking))).not.toContain("127.0.0.1")
    two.close()
    asking.close()
  }))

test("tells of the cache", async () => {
  const folder = mkdtempSync(join(tmpdir(), "ggml-rpc-status-"))
  writeFileSync(join(folder, "0123456789abcdef"), new Uint8Array(1000))
  try {
    await withServer({ cacheDir: folder, cacheLimitBytes: 2 ** 30 }, async ({ port }) => {
      const client = await TestClient.connect(port)
      const told = await askUntil(client, ({ cache }) => cache !== undefined)
      expect(told.cache).toEqual({
        fileCount: 1,
        sizeBytes: 1000,
        limitBytes: 2 ** 30,
        hits: 0,
        misses: 0,
      })
      client.close()
    })
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test("a session that was asked serves another client", () =>
  withServer({}, async ({ port, processIds }) => {
    const before = processIds()
    for (let round = 0; round < 3; round++) {
      const client = await TestClient.connect(port)
      await ask(client)
      client.close()
      await client.closed
    }
    for (const id of before) expect(processIds()).toContain(id)
  }))

test("a question with something in it is refused", () =>
  withServer({}, async ({ port, logged }) => {
    const client = await TestClient.connect(port)
    const request = new Uint8Array(REQUEST_HEADER_SIZE_BYTES + 1)
    request.set(encodeExtensionRequest("STATUS", {}))
    request[1] = 1
    client.write(request)
    await client.closed
    await logged("STATUS: payload_size must be 0")
  }))
