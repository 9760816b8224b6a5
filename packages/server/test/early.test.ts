/** What a client sends behind its HELLO without waiting for the answer. */
import { afterAll, beforeAll, expect, test } from "bun:test"
import { Command, encodeRequest, newest, noConnCaps } from "@ggml-rpc/protocol"
import { f32Tensor, TestClient } from "./TestClient.ts"
import { startServer } from "./withServer.ts"

let server: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  server = await startServer()
})
afterAll(() => server.stop())

const hello = encodeRequest(Command.HELLO, { connCaps: noConnCaps() })
const FIRST_HANDLE = { remotePtr: 1n, basePtr: 1n << 44n }

test.each([0, 1, 1000, 16 * 1024, 100_000, 500_000, 3_000_000])(
  "%i bytes of a tensor behind HELLO arrive in order",
  async (sizeBytes) => {
    const client = await TestClient.open(server.port)
    const data = new Uint8Array(sizeBytes).map((_, at) => (at * 7) ^ (at >> 8))
    const tensor = f32Tensor(1, FIRST_HANDLE, 0, [1_000_000])
    const alloc = encodeRequest(Command.ALLOC_BUFFER, { device: 0, sizeBytes: 4_000_000n })
    const set = encodeRequest(Command.SET_TENSOR, { tensor, cacheFlag: 0, offsetBytes: 8n, data })
    const count = encodeRequest(Command.DEVICE_COUNT, {})
    client.write(Buffer.concat([hello, alloc, count, set, count]))
    expect((await client.answer(Command.HELLO)).major).toBe(newest.version.major)
    expect(await client.answer(Command.ALLOC_BUFFER)).toMatchObject({ remotePtr: 1n })
    expect((await client.answer(Command.DEVICE_COUNT)).deviceCount).toBe(1)
    expect((await client.answer(Command.DEVICE_COUNT)).deviceCount).toBe(1)
    const found = await client.getTensor(tensor, sizeBytes, 8)
    expect(Buffer.compare(found, data)).toBe(0)
    client.close()
  },
)
