/** Servers for the tests of a file of what is done to tensors' data. */
import { afterAll, beforeAll, expect } from "bun:test"
import { Command } from "@ggml-rpc/protocol"
import type { TestClient } from "./TestClient.ts"
import { startServer, type TestServer } from "./withServer.ts"

export interface BothMemories {
  /** The host reads and writes device memory straight. */
  readonly direct: TestServer
  /** All goes through the backend, as on a GPU. */
  readonly staged: TestServer
}

/** Starts both before the tests of the file, and stops them after; what is returned is filled by then. */
export const serversOfBothMemories = (): BothMemories => {
  const servers = {} as Record<keyof BothMemories, Awaited<ReturnType<typeof startServer>>>
  beforeAll(async () => {
    servers.direct = await startServer({ logWindowMs: 0 })
    servers.staged = await startServer({ directMemory: false, logWindowMs: 0 })
  })
  afterAll(async () => {
    await servers.direct.stop()
    await servers.staged.stop()
  })
  return servers
}

/** Passes where a client's session answers after what was done to it. */
export const isAlive = async (client: TestClient): Promise<void> => {
  expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
}
