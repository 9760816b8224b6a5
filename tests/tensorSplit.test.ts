/** Every tensor cut over several servers: the sums of their parts, bit by bit, and what a token costs. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { temporaryFolder } from "./cli/program.ts"
import { ensureModel } from "./models/models.ts"
import type { ServerProcess } from "./peers/process.ts"
import { startOurServer } from "./servers.ts"
import { computed } from "./splitModel.ts"

setDefaultTimeout(120_000)

const stack = new AsyncDisposableStack()
const servers: Array<ServerProcess> = []

beforeAll(async () => {
  for (let index = 0; index < 4; index++) servers.push(stack.use(await startOurServer()))
})

afterAll(() => stack.disposeAsync())

// 8 layers, an all-reduce after the attention and after the feed-forward of each. Of its two KV heads a third and a fourth server
// get none, so that not all parts count.
const LAYERS = 8

test.each([2, 3, 4])(
  "over %d servers the sums are those of ggml's own all-reduce",
  async (count) => {
    const path = await ensureModel("mixed")
    const work = { servers: servers.slice(0, count), path, promptLength: 80, ubatch: 32 }
    const byGgml = await computed({ ...work, sums: "ggml" })
    const byClient = await computed({ ...work, sums: "client" })
    const byServers = await computed({ ...work, sums: "servers" })
    expect(byServers.notes).toEqual([])
    for (const { hashes, tokens } of [byClient, byServers]) {
      expect(hashes).toEqual(byGgml.hashes)
      expect(tokens).toEqual(byGgml.tokens)
    }
    for (const server of servers.slice(0, count).keys()) {
      // Through the client: one write and at most one read for each all-reduce; the graph, then the logits.
      expect(byClient.writes[server]).toBe(2 * LAYERS + 1)
      expect(byClient.answers[server]).toBeLessThanOrEqual(2 * LAYERS + 1)
      expect(byClient.sentBytes[server]).toBeLessThan(byGgml.sentBytes[server]! / 2)
      // Between the servers a whole token is one write, and at most one read.
      expect(byServers.writes[server]).toBe(1)
      expect(byServers.answers[server]).toBeLessThanOrEqual(1)
    }
  },
)

test("servers with one token are linked", async () => {
  using folder = temporaryFolder()
  const tokenFile = join(folder.path, "token")
  writeFileSync(tokenFile, "some secret of the servers\n", { mode: 0o600 })
  const flags = ["--token-file", tokenFile]
  await using first = await startOurServer({ flags })
  await using second = await startOurServer({ flags })
  const path = await ensureModel("mixed")
  const said = await computed({
    ...{ path, servers: [first, second], sums: "servers", promptLength: 8, ubatch: 32 },
    token: "some secret of the servers",
  })
  expect(said.notes).toEqual([])
  expect(said.writes).toEqual([1, 1])
})

test("of two servers one has to reach the other, either", async () => {
  await using shy = await startOurServer({ flags: ["--peers", "192.0.2.0/24"] })
  const path = await ensureModel("mixed")
  for (const group of [
    [shy, servers[0]!],
    [servers[0]!, shy],
  ]) {
    const work = { path, servers: group, promptLength: 8, ubatch: 32 }
    const said = await computed({ ...work, sums: "servers" })
    expect(said.notes).toEqual([])
    expect(said.writes).toEqual([1, 1])
  }
})

test("servers that may not be linked have their sums through the client, which says why", async () => {
  await using alone = await startOurServer({ flags: ["--peers", "none"] })
  const path = await ensureModel("mixed")
  const work = { path, promptLength: 8, ubatch: 32 }
  const group = [servers[0]!, alone]
  const byClient = await computed({ ...work, servers: group, sums: "client" })
  const fallen = await computed({ ...work, servers: group, sums: "servers" })
  expect(fallen.notes).toEqual([
    `127.0.0.1:${alone.port} makes no links to other servers (serve --peers)`,
  ])
  expect(fallen.hashes).toEqual(byClient.hashes)
})
