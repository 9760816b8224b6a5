/**
 * The client of each enabled release over our server, which speaks the client's version: because it is told to, on a
 * port of its own, or because it found out. The client computes what it computes in process.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { formatVersion, versions } from "@ggml-rpc/protocol"
import { cellOf } from "./matrix.ts"
import { ensureModel } from "./models/models.ts"
import { ensurePeers } from "./peers/peers.ts"
import { ProcessError } from "./peers/process.ts"
import { enabledReleases, type Release } from "./peers/releases.ts"
import { runUpstreamClient } from "./peers/upstreamClient.ts"
import { type OurServer, recite, startOurServer } from "./servers.ts"

setDefaultTimeout(60_000)

const enabled = enabledReleases()
const scratch = mkdtempSync(join(tmpdir(), "releases-server-"))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

// A quarter of a minute a release, to fetch and to compile, on two cores that do nothing else.
beforeAll(async () => {
  for (const release of enabled) await ensurePeers(["upstream-client"], { release })
}, 600_000)

const models = {
  demo: { prompt: "What is this?", tokenCount: 32 },
  mixed: { prompt: [1, 17, 290, 3, 4444, 8191, 5, 77], tokenCount: 16 },
} as const

type ModelName = keyof typeof models

const generate = async (
  release: Release,
  name: ModelName,
  endpoints: readonly string[],
): Promise<{ readonly tokens: readonly number[]; readonly logits: Float32Array }> => {
  const logitsPath = join(scratch, `${Bun.randomUUIDv7()}.logits`)
  const result = await runUpstreamClient({
    release,
    model: await ensureModel(name),
    ...models[name],
    endpoints,
    // As on the server: sums in another order have other bits.
    options: ["--no-warmup", "--no-repack", "--logits", logitsPath],
  })
  expect(result.devices).toHaveLength(endpoints.length)
  const logits = new Float32Array(await Bun.file(logitsPath).arrayBuffer())
  return { tokens: result.runs[0]!.tokens, logits }
}

const expectSame = async (release: Release, name: ModelName, endpoint: string): Promise<void> => {
  const local = await generate(release, name, [])
  const remote = await generate(release, name, [endpoint])
  expect(local.tokens).toHaveLength(models[name].tokenCount)
  expect(remote.tokens).toEqual(local.tokens)
  expect(remote.logits).toEqual(local.logits)
}

/** The name of a version for `--protocol`. */
const shortName = ({ protocol }: Release): string => protocol.split(".").slice(0, 2).join(".")

/** Where a server that listens for several versions does so for one. */
const endpointFor = (server: OurServer, name: string): string => {
  const line = new RegExp(`^listening on (.+) for protocol ${RegExp.escape(name)}$`, "m")
  return line.exec(server.stdout())![1]!
}

const listenFor = (names: readonly string[]): string[] => [
  "--listen",
  names.map((name) => `0=${name}`).join(","),
]

const startServer = (stateFolder: string, ...flags: string[]): Promise<OurServer> =>
  startOurServer({
    flags: ["--no-repack", ...flags],
    env: { XDG_STATE_HOME: join(scratch, stateFolder) },
  })

/** Nobody starts a program again at once, and the server tells a new one from the next connection of a run by that. */
const BETWEEN_STARTS_MS = 1000

/** Runs it until it does not fail; returns how often it failed. */
const retry = async (attempt: () => Promise<unknown>, tries: number): Promise<number> => {
  for (let failures = 0; ; failures++) {
    try {
      await attempt()
      return failures
    } catch (error) {
      if (!(error instanceof ProcessError) || failures + 1 >= tries) throw error
      await Bun.sleep(BETWEEN_STARTS_MS)
    }
  }
}

/** As many as there are versions for a client whose HELLO is of one kind. */
const MOST_STARTS = 5

let sideBySide: OurServer | undefined
beforeAll(async () => {
  const names = [...new Set(enabled.map(shortName))]
  sideBySide = await startServer("side", ...listenFor(names))
}, 60_000)
afterAll(() => sideBySide?.stop())

describe.each(enabled.map((release) => [release.protocol, release] as const))(
  "a client of protocol %s",
  (protocol, release) => {
    const name = shortName(release)
    const cell = cellOf("upstream-ours", protocol, 5)
    beforeAll(cell.begin)
    const modelNames = ["demo", "mixed"] as const

    test.each(modelNames)("over a server that speaks this version alone: %s", async (model) => {
      await using server = await startServer("pinned", "--protocol", name)
      await expectSame(release, model, server.endpoint)
      cell.passed()
    })

    test.each(modelNames)("on a port for this version, beside others: %s", async (model) => {
      await expectSame(release, model, endpointFor(sideBySide!, name))
      cell.passed()
    })

    test("finds its version by starting again, which the server remembers", async () => {
      const state = `auto-${release.protocol}`
      const local = await generate(release, "demo", [])
      let starts = 0
      {
        await using server = await startServer(state)
        const failures = await retry(() => {
          starts++
          return generate(release, "demo", [server.endpoint])
        }, MOST_STARTS)
        expect(failures).toBeLessThan(MOST_STARTS)
        if (failures > 0)
          expect(server.stdout() + server.stderr()).toContain(`speak protocol ${name}`)
        expect(await generate(release, "demo", [server.endpoint])).toEqual(local)
        expect(await generate(release, "demo", [server.endpoint])).toEqual(local)
      }
      console.log(`protocol ${release.protocol}: the client's start number ${starts} works`)
      await using restarted = await startServer(state)
      expect(await generate(release, "demo", [restarted.endpoint])).toEqual(local)
      cell.passed()
    })
  },
)

describe("our client over our server", () => {
  const names = versions.map(({ version }) => formatVersion(version))
  let server: OurServer
  beforeAll(async () => {
    server = await startServer("ours", ...listenFor(names))
  }, 60_000)
  afterAll(() => server?.stop())

  test.each(names)("in protocol %s", async (name) => {
    const cell = cellOf("ours-ours", name, 1)
    cell.begin()
    const path = await ensureModel("demo")
    const options = { prompt: "What is this?", maxTokens: 16 }
    const local = await recite([], path, options)
    const remote = await recite([endpointFor(server, name)], path, options)
    expect(local.tokens).toHaveLength(options.maxTokens)
    expect(remote.tokens).toEqual(local.tokens)
    expect(remote.unitCounts[0]).toBeGreaterThan(0)
    cell.passed()
  })
})
