/**
 * The peers of each enabled release: they say the version of the table, and a release's client over its own
 * servers computes what it computes in process.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { cpSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, join } from "node:path"
import { ensureModel } from "../models/models.ts"
import { ensurePeers, PeerBuildError, type PeerName, releasePeers } from "./peers.ts"
import { runProcess, startUpstreamServer } from "./process.ts"
import {
  enabledReleases,
  newestRelease,
  type Release,
  releaseFolder,
  releaseOf,
  releases,
} from "./releases.ts"
import { runUpstreamClient } from "./upstreamClient.ts"

setDefaultTimeout(60_000)

const scratch = mkdtempSync(join(tmpdir(), "releases-test-"))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

const enabled = enabledReleases()
const older = enabled.filter((release) => release !== newestRelease)

// A quarter of a minute a release, to fetch and to compile, on two cores that do nothing else.
beforeAll(async () => {
  for (const release of enabled) await ensurePeers(releasePeers, { release })
}, 600_000)

const models = {
  demo: { prompt: "What is this?", tokenCount: 32 },
  mixed: { prompt: [1, 17, 290, 3, 4444, 8191, 5, 77], tokenCount: 16 },
} as const

const generate = async (
  release: Release,
  name: keyof typeof models,
  endpoints: ReadonlyArray<string>,
) => {
  const logitsPath = join(scratch, `${Bun.randomUUIDv7()}.logits`)
  const result = await runUpstreamClient({
    release,
    model: await ensureModel(name),
    ...models[name],
    endpoints,
    // A server's weights are in their own layout.
    options: ["--no-warmup", "--no-repack", "--logits", logitsPath],
  })
  const logits = Buffer.from(await Bun.file(logitsPath).arrayBuffer())
  return { ...result, tokens: result.runs[0]?.tokens, logits }
}

/** What a server answers to HELLO: as many bytes as its size field says. */
const helloAnswer = async (port: number, payloadSizeBytes: number): Promise<Uint8Array> => {
  const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>()
  let received = new Uint8Array(0)
  const socket = await Bun.connect({
    hostname: "127.0.0.1",
    port,
    socket: {
      data: (_, chunk) => {
        received = Buffer.concat([received, chunk])
        if (received.length >= 8 && received.length >= 8 + (received[0] ?? 0)) {
          resolve(received.slice(8))
        }
      },
      close: () => reject(new Error("the server closed the connection")),
    },
  })
  try {
    const hello = 14
    socket.write(new Uint8Array([hello, payloadSizeBytes, ...Array(7 + payloadSizeBytes).fill(0)]))
    return await promise
  } finally {
    socket.terminate()
  }
}

describe.each(enabled.map((release) => [release.protocol, release] as const))(
  "release of protocol %s",
  (protocol, release) => {
    test("its server answers HELLO with the version of the table", async () => {
      const [major = 0] = protocol.split(".").map(Number)
      await using server = await startUpstreamServer({ release, threads: 1 })
      const answer = await helloAnswer(server.port, major < 4 ? 0 : 24)
      expect([...answer.subarray(0, 3)].join(".")).toBe(protocol)
      expect(answer.length).toBe(major < 4 ? 3 : 28)
    })

    test.each(["demo", "mixed"] as const)(
      "its client over its servers computes what it computes in process: %s",
      async (model) => {
        await using first = await startUpstreamServer({ release, threads: 1 })
        await using second = await startUpstreamServer({ release, threads: 1 })
        const local = await generate(release, model, [])
        const one = await generate(release, model, [first.endpoint])
        const two = await generate(release, model, [first.endpoint, second.endpoint])

        expect(local.devices).toEqual([])
        expect(one.devices).toHaveLength(1)
        expect(two.devices).toHaveLength(2)
        expect(local.tokens).toHaveLength(models[model].tokenCount)
        expect(one.tokens).toEqual(local.tokens!)
        expect(two.tokens).toEqual(local.tokens!)
        // The mixed model repeats one token, so the logits say more; one thread everywhere takes sums in the
        // same order: they are the same bits.
        expect(local.logits.length).toBe(local.prompt.length * local.model.vocabSize * 4)
        expect(one.logits.equals(local.logits)).toBe(true)
        expect(two.logits.equals(local.logits)).toBe(true)
        expect(second.stdout()).toContain("Accepted client connection")
      },
    )
  },
)

test("the table goes from the oldest to the newest, each version once", () => {
  const protocols = releases.map((release) => release.protocol)
  expect(protocols).toEqual([...new Set(protocols)].sort())
  expect(releases.at(-1)).toBe(newestRelease)
  expect(releaseOf("3.6.0").llamaVersion).toBe("b7698")
})

test("an older release has no other peers than library, server and client", async () => {
  const names: ReadonlyArray<PeerName> = ["llama-bench"]
  const failure = await ensurePeers(names as never, { release: releases[0]! }).catch(
    (error) => error,
  )
  expect(failure).toBeInstanceOf(PeerBuildError)
  expect(failure.message).toContain("llama-bench is not compiled from 3.14.0")
})

test.skipIf(older.length === 0)("a release's folder works where it was copied to", async () => {
  const release = older[0]!
  const target = join(scratch, "releases", basename(releaseFolder(release)))
  cpSync(releaseFolder(release), target, { recursive: true, verbatimSymlinks: true })
  const code = `
    import { ensurePeers } from "./peers.ts"
    import { releaseOf } from "./releases.ts"
    const release = releaseOf(${JSON.stringify(release.protocol)})
    console.log((await ensurePeers(["upstream-client"], { release }))["upstream-client"])`
  const copied = await runProcess([process.execPath, "-e", code], {
    cwd: import.meta.dir,
    env: { GGML_RPC_BUILD_DIR: scratch },
  })
  // Nothing was compiled again.
  expect(copied.stderr).toBe("")
  const program = copied.stdout.trim()
  expect(program).toStartWith(target)
  const ran = await runProcess([program, "-m", await ensureModel("demo"), "-p", "Hi", "-n", "2"])
  expect(ran.exitCode).toBe(0)
  expect(JSON.parse(ran.stdout).runs[0].tokens).toHaveLength(2)
})
