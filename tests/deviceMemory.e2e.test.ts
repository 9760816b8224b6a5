/**
 * A device whose memory this process cannot reach, and whose buffers all begin at one address: what Vulkan is to the server,
 * without a GPU (peers/refusing-device.cpp).
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { Command } from "@ggml-rpc/protocol"
import { f32Tensor, TestClient } from "../packages/server/test/TestClient.ts"
import { ensureModel } from "./models/models.ts"
import { ensurePeers } from "./peers/peers.ts"
import { type OurServer, recite, startOurServer } from "./servers.ts"

setDefaultTimeout(60_000)

let server: OurServer

beforeAll(async () => {
  const peers = await ensurePeers(["librefusing-device.so"])
  server = await startOurServer({
    flags: ["--device", "REFUSING"],
    env: { GGML_BACKEND_PATH: peers["librefusing-device.so"] },
  })
}, 600_000)

afterAll(() => server[Symbol.asyncDispose]())

test.each(["demo", "mixed", "moe"] as const)(
  "%s generates the tokens of this process",
  async (name) => {
    const path = await ensureModel(name)
    const options = { prompt: [1, 20, 30, 40, 50], maxTokens: 16, contextSize: 256 }
    const local = await recite([], path, options)
    const remote = await recite([server.endpoint], path, options)
    expect(remote.unitCounts.at(-1)).toBe(0)
    expect(remote.tokens).toEqual(local.tokens)
    expect(remote.tokens).toHaveLength(16)
  },
)

test("new memory is zero, whatever was in it", async () => {
  const client = await TestClient.connect(server.port)
  for (const sizeBytes of [16, 1002, 5_000_000]) {
    const buffer = await client.allocate(sizeBytes)
    const count = Math.floor(sizeBytes / 4)
    const bytes = await client.getTensor(f32Tensor(1, buffer, 0, [count]), count * 4)
    expect(Buffer.compare(bytes, new Uint8Array(count * 4))).toBe(0)
  }
  client.close()
})

test("BUFFER_CLEAR and MEMSET_TENSOR fill with any byte, from any place on", async () => {
  const client = await TestClient.connect(server.port)
  const buffer = await client.allocate(3_000_000)
  client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 0xab })
  const tensor = f32Tensor(1, buffer, 16, [700_000])
  client.send(Command.MEMSET_TENSOR, { tensor, offsetBytes: 3n, sizeBytes: 2_500_001n, value: 1 })
  const all = await client.getTensor(f32Tensor(2, buffer, 0, [750_000]), 3_000_000)
  const expected = new Uint8Array(3_000_000).fill(0xab).fill(1, 19, 19 + 2_500_001)
  expect(Buffer.compare(all, expected)).toBe(0)
  client.close()
})
