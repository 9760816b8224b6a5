/** Our client over the server of each enabled release: the tokens are those of the run in this process. */
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { cellOf } from "./matrix.ts"
import { ensureModel } from "./models/models.ts"
import { ensurePeers } from "./peers/peers.ts"
import { startUpstreamServer } from "./peers/process.ts"
import { enabledReleases } from "./peers/releases.ts"
import { recite } from "./servers.ts"

setDefaultTimeout(60_000)

const enabled = enabledReleases()

// A quarter of a minute a release, to fetch and to compile, on two cores that do nothing else.
beforeAll(async () => {
  for (const release of enabled) await ensurePeers(["rpc-server"], { release })
}, 600_000)

const models = {
  demo: { prompt: "What is this?", maxTokens: 32 },
  mixed: { prompt: [1, 17, 290, 3, 4444, 8191, 5, 77], maxTokens: 16 },
} as const

describe.each(enabled.map((release) => [release.protocol, release] as const))(
  "a server of protocol %s",
  (protocol, release) => {
    const cell = cellOf("ours-upstream", protocol, 2)
    beforeAll(cell.begin)
    test.each(["demo", "mixed"] as const)(
      "computes the tokens of this process: %s",
      async (name) => {
        await using server = await startUpstreamServer({ release, threads: 1 })
        const path = await ensureModel(name)
        const local = await recite([], path, models[name])
        const remote = await recite([server.endpoint], path, models[name])
        expect(local.tokens).toHaveLength(models[name].maxTokens)
        expect(remote.tokens).toEqual(local.tokens)
        expect(remote.unitCounts[0]).toBeGreaterThan(0)
        cell.passed()
      },
    )
  },
)
