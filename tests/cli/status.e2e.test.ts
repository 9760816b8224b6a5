/** `ggml-rpc status`: servers of both kinds, those that cannot be reached, and looking again and again. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { chmodSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { goodAnswers, startFakeServer } from "../fakeServer.ts"
import { waitUntil } from "../peers/process.ts"
import { ggmlRpc, noState, type OurServer, startOurServer } from "../servers.ts"
import { jsonLines, runCli, startCli, temporaryFolder } from "./program.ts"

setDefaultTimeout(60_000)

const folder = temporaryFolder()
const tokenFile = join(folder.path, "token")
let open: OurServer
let secured: OurServer
let rpc: string

beforeAll(async () => {
  writeFileSync(tokenFile, "a secret that is long enough")
  chmodSync(tokenFile, 0o600)
  const cache = { env: { LLAMA_CACHE: folder.path } }
  ;[open, secured] = await Promise.all([
    startOurServer({ flags: ["--cache", "--max-clients", "3"], ...cache }),
    startOurServer({ flags: ["--token-file", tokenFile] }),
  ])
  rpc = `${open.endpoint},${secured.endpoint}`
})

afterAll(async () => {
  await open.stop()
  await secured.stop()
  folder[Symbol.dispose]()
})

interface Told {
  readonly servers: ReadonlyArray<Record<string, unknown>>
}

const toldBy = (stdout: string): Told => jsonLines(stdout)[0] as unknown as Told

describe("a look", () => {
  test("shows what servers tell, for people", async () => {
    const result = await runCli(["status", "--rpc", rpc, "--token-file", tokenFile])
    expect(result.stderr).toBe("")
    expect(result.exitCode).toBe(0)
    const [first, second, ...more] = result.stdout.trimEnd().split("\n\n")
    expect(more).toEqual([])
    expect(first).toMatch(
      /^127\.0\.0\.1:\d+\n {2}server {3}ggml-rpc \d+\.\d+\.\d+, protocol \d+\.0\.0\n {2}up {7}\d+ s\n {2}clients {2}0 of at most 3, .+\n {2}load {5}\d+\.\d\d on \d+ cores?\n {2}cache {4}0 files, 0 B of at most .+\n {2}CPU {6}.+ of .+ free, .+$/,
    )
    expect(second).toStartWith(`${secured.endpoint}\n`)
    expect(second).not.toContain("cache")
    // Plain text in a pipe.
    expect(result.stdout).not.toContain("\x1b")
  })

  test("knows less of llama.cpp's, and nothing of who cannot be reached: exit code 1", async () => {
    using upstream = startFakeServer(goodAnswers)
    const endpoints = `${upstream.endpoint},127.0.0.1:1,${secured.endpoint}`
    const text = await runCli(["status", "--rpc", endpoints])
    expect(text.exitCode).toBe(1)
    expect(text.stdout).toContain(
      `${upstream.endpoint}\n  server   llama.cpp, protocol 7.0.0\n  device 0 512 MiB of 1.00 GiB free\n`,
    )
    expect(text.stdout).toContain("127.0.0.1:1\n  server   cannot be used, see below\n")
    const [one, two, ...more] = text.stderr.trimEnd().split("\n")
    expect(more).toEqual([])
    expect(one).toStartWith("error: Cannot connect to 127.0.0.1:1: nothing listens there.")
    expect(two).toContain("serves only who has its token")
    const json = await runCli(["status", "--rpc", endpoints, "--json"])
    expect(json.exitCode).toBe(1)
    expect(json.stderr).toBe("")
    expect(toldBy(json.stdout).servers).toMatchObject([
      { kind: "llama.cpp", protocol: "7.0.0", devices: [{ freeBytes: 512 * 2 ** 20 }] },
      { endpoint: "127.0.0.1:1", error: "ConnectError" },
      { endpoint: secured.endpoint, error: "AccessError" },
    ])
  })

  test("does not count itself; with --json it is data", async () => {
    const result = await runCli(["status", "--rpc", open.endpoint, "--json"])
    expect(toldBy(result.stdout).servers[0]).toMatchObject({
      endpoint: open.endpoint,
      kind: "ggml-rpc",
      clientCount: 0,
      maxClients: 3,
      cache: { fileCount: 0, hits: 0 },
      load: { coreCount: expect.any(Number) },
      devices: [{ name: "CPU", memory: expect.stringMatching(/^[0-9a-f]{32}$/) }],
    })
  })

  test("needs a server", async () => {
    const result = await runCli(["status"])
    expect(result.exitCode).toBe(2)
    expect(result.stderr).toStartWith(
      "error: status needs servers: name them with --rpc host:port.",
    )
  })
})

describe("--watch", () => {
  test("writes a line a server where nobody looks, until Ctrl-C, exit code 0", async () => {
    await using child = startCli(["status", "--rpc", `${open.endpoint},127.0.0.1:1`, "--watch"])
    const lines = (): ReadonlyArray<string> => child.stdout().trimEnd().split("\n")
    expect(await waitUntil(() => lines().length >= 4, 20_000)).toBe(true)
    child.signal("SIGINT")
    expect(await child.exited).toBe(0)
    expect(child.stderr()).toBe("")
    for (const [index, line] of lines().entries()) {
      expect(line).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ 127\.0\.0\.1:\d+ /)
      expect(line).toContain(index % 2 === 0 ? "CPU " : "cannot be used: Cannot connect")
    }
  })

  test("with --json an object a line", async () => {
    await using child = startCli(["status", "--rpc", open.endpoint, "--watch", "--json"])
    expect(await waitUntil(() => child.stdout().split("\n").length > 2, 20_000)).toBe(true)
    child.signal("SIGTERM")
    expect(await child.exited).toBe(0)
    for (const line of jsonLines(child.stdout())) {
      expect(Date.parse(String(line.time))).toBeGreaterThan(0)
      expect(line.servers).toMatchObject([{ endpoint: open.endpoint }])
    }
  })

  test("draws anew on a terminal of 60 columns, and in place", async () => {
    let drawn = ""
    const words = ["status", "--rpc", `${open.endpoint},127.0.0.1:1`, "--watch"]
    const child = Bun.spawn([...ggmlRpc, ...words], {
      env: { ...process.env, ...noState, NO_COLOR: "1", TERM: "xterm" },
      terminal: {
        cols: 60,
        rows: 40,
        data: (_, bytes) => {
          drawn += new TextDecoder().decode(bytes)
        },
      },
    })
    const pictures = (): ReadonlyArray<string> => drawn.split("\x1b[H\x1b[J").slice(1)
    expect(await waitUntil(() => pictures().length >= 2, 20_000)).toBe(true)
    child.kill("SIGINT")
    expect(await child.exited).toBe(0)
    for (const picture of pictures()) {
      expect(picture).not.toContain("\x1b")
      const lines = picture.split("\r\n")
      expect(lines.filter((line) => line.length > 60)).toEqual([])
      expect(lines[0]).toBe(open.endpoint)
      expect(picture).toContain("error: Cannot connect to 127.0.0.1:1")
    }
  })
})
