/** `ggml-rpc bench` over servers of both kinds. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { writeEncoderModels } from "../models/encoders.ts"
import { ensureModel } from "../models/models.ts"
import { startNetwork } from "../network.ts"
import { ensurePeers } from "../peers/peers.ts"
import { type ServerProcess, startServer, waitUntil } from "../peers/process.ts"
import { type OurServer, startOurServer } from "../servers.ts"
import { jsonLines, runCli, startCli, temporaryFolder } from "./program.ts"

setDefaultTimeout(60_000)

const folder = temporaryFolder()
let model: string
let ours: OurServer
let upstreams: ServerProcess

beforeAll(async () => {
  model = await ensureModel("tiny")
  const { "rpc-server": program } = await ensurePeers(["rpc-server"])
  ours = await startOurServer()
  upstreams = await startServer((port) => [program, "-p", String(port), "-t", "1"])
}, 300_000)

afterAll(async () => {
  await ours?.stop()
  await upstreams?.stop()
  folder[Symbol.dispose]()
})

const bench = (...flags: ReadonlyArray<string>) =>
  runCli(["bench", model, "-t", "1", "-r", "2", ...flags])

const servers = () => ["--rpc", `${ours.endpoint},${upstreams.endpoint}`, "-ts", "1/1"]

interface Link {
  readonly endpoint: string
  readonly [field: string]: string | number | null
}

test("each test has its tokens a second, and what it took of each link", async () => {
  const flags = ["-p", "40", "-n", "12", "-d", "0,30", "-np", "1,3", "-o", "jsonl"]
  const { stdout, stderr, exitCode } = await bench(...servers(), ...flags)
  expect({ stderr, exitCode }).toEqual({ stderr: "", exitCode: 0 })
  const rows = jsonLines(stdout)
  const named = rows.map((row) => [row.n_prompt, row.n_gen, row.n_depth, row.n_parallel])
  expect(named).toEqual(
    [0, 30].flatMap((depth) => [
      ...[1, 3].map((parallel) => [40, 0, depth, parallel]),
      ...[1, 3].map((parallel) => [0, 12, depth, parallel]),
    ]),
  )
  for (const row of rows) {
    const [parallel, n_gen, n_prompt] = [row.n_parallel, row.n_gen, row.n_prompt].map(Number) as [
      ...[number, number, number],
    ]
    const samples = row.samples_ns as ReadonlyArray<number>
    expect(row).toMatchObject({ backends: "RPC", n_threads: 1, n_batch: 2048 })
    expect(samples.length).toBe(2)
    expect(Math.min(...samples)).toBeGreaterThan(0)
    expect(row.samples_ts).toEqual(samples.map((ns) => ((n_prompt + n_gen) * parallel * 1e9) / ns))
    const links = row.links as ReadonlyArray<Link>
    expect(links.map(({ endpoint }) => endpoint)).toEqual([ours.endpoint, upstreams.endpoint])
    for (const link of links) {
      expect(Number(link.round_trip_ms)).toBeGreaterThan(0)
      expect(Number(link.upload_bytes_per_second)).toBeGreaterThan(1e6)
      expect(Number(link.download_bytes_per_second)).toBeGreaterThan(1e6)
      // One read a token and server; for several texts one each of their two groups, and answers may be there before the wait.
      if (n_gen === 12) {
        const groups = Math.min(2, parallel)
        if (groups === 1) expect(Number(link.waits_per_token)).toBeGreaterThanOrEqual(1)
        expect(Number(link.waits_per_token)).toBeLessThan((1.5 * groups) / parallel)
      }
    }
    // From the last server come the most likely tokens, as for 'run', not the logits of all 512.
    if (n_gen === 12) {
      const receivedBytes = Number(links[1]!.received_bytes_per_token)
      expect(receivedBytes).toBeGreaterThan(100)
      expect(receivedBytes).toBeLessThan(512 * 4)
    }
  }
})

test("as Markdown, JSON and CSV, and on a narrow terminal", async () => {
  const flags = [...servers(), "-p", "8", "-n", "4", "-r", "1"]
  const wide = await bench(...flags, "-np", "1,2")
  const lines = wide.stdout.trimEnd().split("\n")
  expect(lines[0]).toMatch(
    /^\| model +\| +size \| +params \| backend +\| threads \| ts +\| +np \| +test \| +t\/s \|$/,
  )
  expect(lines[2]).toMatch(
    /^\| llama .+\| +1\.00 MiB \| +0\.26 M \| RPC +\| +1 \| 1\/1 +\| +1 \| +pp8 \| +\d+\.\d\d ± 0\.00 \|$/,
  )
  expect(wide.stdout).toMatch(/\| 127\.0\.0\.1:\d+ +\| +\d+\.\d+ ms \| +.+B\/s \| +.+B\/s \|/)
  expect(wide.stdout).toMatch(/\| tg4 × 1 +\| 127\.0\.0\.1:\d+ +\| .+ \| +1\.00 \| +1\.00 \|/)
  const narrow = await runCli(["bench", model, "-t", "1", ...flags], { env: { COLUMNS: "60" } })
  expect(Math.max(...narrow.stdout.split("\n").map((line) => line.length))).toBeLessThanOrEqual(60)
  expect(narrow.stdout).toContain("test tg4, t/s")
  // Whoever asks for Markdown gets it.
  const asked = ["bench", model, "-t", "1", ...flags, "-o", "md"]
  const kept = await runCli(asked, { env: { COLUMNS: "60" } })
  expect(kept.stdout.split("\n")[0]).toMatch(/^\| model .* t\/s \|$/)
  const json = JSON.parse((await bench(...flags, "-o", "json")).stdout)
  expect(json).toHaveLength(2)
  const [heading, ...rows] = (await bench(...flags, "-o", "csv")).stdout.trimEnd().split("\n")
  expect(heading).toBe(
    Object.keys(json[0])
      .filter((key) => !Array.isArray(json[0][key]))
      .join(","),
  )
  expect(rows).toHaveLength(2)
  expect(rows[1]!).toMatch(/^"[^"]*"(,"[^"]*")*$/)
  expect(rows[1]!.split('","')).toHaveLength(heading!.split(",").length)
})

test("models are loaded in each of the ways that were asked for", async () => {
  const flags = ["-p", "8", "-n", "0", "-r", "1", "-sm", "layer,tensor", "-ub", "32,64"]
  const { stdout, stderr } = await bench(...servers(), ...flags, "-o", "jsonl")
  // Told once, of two models whose tensors are cut.
  expect(stderr.replaceAll("\n", " ")).toBe(
    `note: Partial sums are added up by this machine, not between the servers, which would be faster: ${upstreams.endpoint} is a server of llama.cpp. `,
  )
  expect(jsonLines(stdout).map((row) => [row.split_mode, row.n_ubatch])).toEqual([
    ["layer", 32],
    ["layer", 64],
    ["tensor", 32],
    ["tensor", 64],
  ])
})

test("verify says as an event what makes a model slow", async () => {
  const flags = ["-sm", "tensor", "--tokens", "3,1,2", "--json"]
  const { stdout, stderr } = await runCli(["verify", model, "-t", "1", ...servers(), ...flags])
  expect(stderr).toBe("")
  const [note, row] = jsonLines(stdout)
  expect(note).toEqual({
    event: "note",
    text: expect.stringContaining(`${upstreams.endpoint} is a server of llama.cpp`),
  })
  expect(row).toMatchObject({ event: "verify", isPassed: true })
})

test("a slow link shows in its round trip", async () => {
  using network = startNetwork(ours.port, { delayMs: 10 })
  const { stdout } = await bench(
    "--rpc",
    network.endpoint,
    ...["-p", "0", "-n", "1"],
    "--no-warmup",
    "-o",
    "jsonl",
  )
  const [link] = jsonLines(stdout)[0]!.links as ReadonlyArray<Link>
  expect(Number(link!.round_trip_ms)).toBeGreaterThanOrEqual(19)
})

test("what cannot be measured is said, and no table begun", async () => {
  const nothing = await bench("-p", "0", "-n", "0")
  expect(nothing).toMatchObject({ exitCode: 2, stdout: "" })
  expect(nothing.stderr).toContain("there is no test")
  const absent = await runCli(["bench", "nothing.gguf", ...servers()])
  expect(absent).toMatchObject({ exitCode: 1, stdout: "" })
  expect(absent.stderr).toContain("nothing.gguf")
  const { bert } = writeEncoderModels(folder.path)
  const encoder = await runCli(["bench", bert, "-dev", "none", "-p", "8", "-n", "0"])
  expect(encoder).toMatchObject({ exitCode: 1, stdout: "" })
  expect(encoder.stderr).toContain("cannot generate text")
})

test("Ctrl-C ends it, and what was printed is whole", async () => {
  await using child = startCli([
    "bench",
    model,
    ...servers(),
    "-p",
    "8",
    "-n",
    "4-500",
    "-o",
    "json",
  ])
  await waitUntil(() => child.stdout().includes('"n_gen": 5,'), 20_000)
  child.signal("SIGINT")
  expect(await child.exited).toBe(130)
  const rows = JSON.parse(child.stdout())
  expect(rows.length).toBeGreaterThanOrEqual(3)
  expect(rows[0]).toMatchObject({ n_prompt: 8, n_gen: 0 })
})
