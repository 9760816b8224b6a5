/** Every command from outside: output, exit code, and what is left behind. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, linkSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Command, Fnv1a64 } from "@ggml-rpc/protocol"
import { recitalText, writeDemoModel } from "ggml-rpc/demo-model"
import packageJson from "../../packages/cli/package.json" with { type: "json" }
import { writeEncoderModels } from "../models/encoders.ts"
import { type ChildProcess, groupMembers, runProcess, waitUntil } from "../peers/process.ts"
import { ggmlRpc, type OurServer, startOurServer } from "../servers.ts"
import { jsonLines, runCli, startCli, temporaryFolder } from "./program.ts"
import { startProxy } from "./proxy.ts"

setDefaultTimeout(60_000)

const folder = temporaryFolder()
const model = join(folder.path, "demo.gguf")
let servers: ReadonlyArray<OurServer>
let rpc: string

beforeAll(async () => {
  writeDemoModel(model)
  servers = await Promise.all([startOurServer(), startOurServer()])
  rpc = servers.map(({ endpoint }) => endpoint).join(",")
})

afterAll(async () => {
  for (const server of servers) await server.stop()
  folder[Symbol.dispose]()
})

/** Nobody is connected, and what waits for clients is only the spare process. */
const serversAreIdle = (): Promise<boolean> =>
  waitUntil(() => servers.every((server) => server.sessionPids().length <= 1), 5000)

describe("run", () => {
  const greedy = ["run", model, "-p", "Hello", "--temp", "0"]

  test("recites over two servers: the text on stdout, all else on stderr", async () => {
    const result = await runCli([...greedy, "--rpc", rpc])
    expect(result.exitCode).toBe(0)
    expect(result.stdout).toBe(`${recitalText}\n`)
    expect(result.stderr).toContain("ggml-rpc demo: llama, 8 layers")
    for (const { endpoint } of servers) expect(result.stderr).toContain(endpoint)
    expect(result.stderr).toMatch(/RPC0 .+ 0–\d /)
    expect(result.stderr).toMatch(/RPC1 .+, output /)
    expect(result.stderr).toMatch(/loaded in .+ sent to 2 servers/)
    expect(result.stderr).toMatch(/generation +\d+ tokens in .+ \(the model ended the text\)/)
    // Plain text in a pipe.
    expect(result.stderr).not.toContain("\x1b")
    expect(await serversAreIdle()).toBe(true)
  })

  test("without servers it runs here", async () => {
    const result = await runCli([...greedy, "-n", "5", "-dev", "none"])
    expect(result.stdout).toBe("You are watching one language\n")
    expect(result.stderr).toMatch(/CPU +local +input, 0–7, output/)
    expect(result.stderr).toContain("as many tokens as wanted")
  })

  test("takes llama-cli's flags by its names", async () => {
    const result = await runCli([
      ...["run", "-m", model, "--rpc", rpc, "-p", "a", "-n", "3", "--temp", "0", "-s", "1"],
      ...["-c", "512", "-b", "64", "-ub", "32", "-t", "1", "-ngl", "4", "-ts", "3,1", "-fa", "off"],
      ...["-ctk", "q8_0", "-ctv", "f16", "--top-k", "5", "--top-p", "0.9", "--min-p", "0"],
      ...["--repeat-penalty", "1.1", "--ignore-eos", "--no-mmap", "-dev", "none"],
    ])
    expect(result.stderr).toContain("context 512")
    // Four of nine units on devices, three to one.
    expect(result.stderr).toMatch(/RPC0 .+ 5–7 /)
    expect(result.stderr).toMatch(/RPC1 .+ output /)
    expect(result.stderr).toMatch(/CPU +local +input, 0–4 /)
    expect(result.stdout).toBe("You are watching\n")
    expect(result.exitCode).toBe(0)
  })

  test("--json gives one event a line, in order", async () => {
    const result = await runCli([...greedy, "--rpc", rpc, "--json"])
    expect(result.exitCode).toBe(0)
    const events = jsonLines(result.stdout)
    const kinds = events.map(({ event }) => event)
    expect(kinds.filter((kind, index) => kind !== kinds[index - 1])).toEqual([
      "plan",
      "load",
      "token",
      "stats",
    ])
    const text = events.map((event) => (event.event === "token" ? event.text : "")).join("")
    expect(text).toBe(recitalText)
    const plan = events[0] as { devices: ReadonlyArray<{ place: string; weightBytes: number }> }
    expect(plan.devices.map(({ place }) => place)).toEqual(rpc.split(","))
    const loaded = events.findLast(({ event }) => event === "load")!
    expect(loaded.isDone).toBe(true)
    expect(loaded.remoteWeightBytes).toBe(
      plan.devices.reduce((sum, { weightBytes }) => sum + weightBytes, 0),
    )
    expect(events.at(-1)).toMatchObject({ stopReason: "end-of-text", promptTokenCount: 7 })
    expect(result.stderr).toBe("")
  })

  test("reads the prompt from a file or from stdin, with escapes or without", async () => {
    const path = join(folder.path, "prompt.txt")
    writeFileSync(path, "two\\nlines\n")
    const promptTokens = async (more: ReadonlyArray<string>, stdin?: string): Promise<unknown> => {
      const words = ["run", model, "-n", "1", "--json", ...more]
      const result = await runCli(words, stdin === undefined ? {} : { stdin })
      return jsonLines(result.stdout).at(-1)?.promptTokenCount
    }
    // The demo model's tokenizer knows single bytes only: text start, a space, then one a byte.
    const tokensOf = (text: string): number => 2 + text.length
    expect(await promptTokens(["-f", path])).toBe(tokensOf("two\nlines"))
    expect(await promptTokens(["-f", path, "--no-escape"])).toBe(tokensOf("two\\nlines"))
    expect(await promptTokens([], "from a pipe\n")).toBe(tokensOf("from a pipe"))
    expect(await promptTokens(["-f", "-"], "")).toBe(1)
  })

  test.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)(
    "%s ends the engine and frees the servers, exit code %d",
    async (signal, exitCode) => {
      await using child = startCli([...greedy, "--rpc", rpc, "--ignore-eos"])
      await waitUntil(() => child.stdout() !== "", 20_000)
      child.signal(signal)
      const started = performance.now()
      expect(await child.exited).toBe(exitCode)
      expect(performance.now() - started).toBeLessThan(5000)
      expect(child.stderr()).not.toContain("error:")
      expect(groupMembers(child.pid)).toEqual([])
      expect(await serversAreIdle()).toBe(true)
    },
  )

  test("a server that dies in the middle ends it with the server's name", async () => {
    await using victim = await startOurServer()
    await using child = startCli([...greedy, "--rpc", victim.endpoint, "--ignore-eos"])
    await waitUntil(() => child.stdout() !== "", 20_000)
    for (const pid of groupMembers(victim.pid)) process.kill(pid, "SIGKILL")
    expect(await child.exited).toBe(1)
    expect(child.stderr()).toContain(`error: Lost the server ${victim.endpoint}`)
  })

  test("ends quietly when nobody reads on", async () => {
    const words = [...ggmlRpc, ...greedy, "--rpc", rpc].map((word) => `'${word}'`).join(" ")
    const result = await runProcess([
      "bash",
      "-c",
      `set -o pipefail; ${words} | head -c 3; echo " \${PIPESTATUS[0]}"`,
    ])
    expect(result.stdout).toBe("You 141\n")
    expect(result.stderr).not.toContain("error")
    expect(await serversAreIdle()).toBe(true)
  })

  test("says that its output cannot be written", async () => {
    const words = [...ggmlRpc, ...greedy, "--rpc", rpc].map((word) => `'${word}'`).join(" ")
    const result = await runProcess(["bash", "-c", `${words} > /dev/full`])
    expect(result.exitCode).toBe(1)
    expect(result.stderr).toMatch(/error: The output cannot be written \(.*no space left/)
    expect(await serversAreIdle()).toBe(true)
  })
})

test.each(["devices --json", "run --help", "--version"])(
  "%s says, too, that its output cannot be written",
  async (words) => {
    const command = [...ggmlRpc, ...words.split(" ")].map((word) => `'${word}'`).join(" ")
    const result = await runProcess(["bash", "-c", `${command} > /dev/full`])
    expect(result.exitCode).toBe(1)
    expect(result.stderr).toMatch(/^error: The output cannot be written \(.*\)\.\n$/)
  },
)

describe("plan", () => {
  test("shows the context that libllama makes of one that is no multiple of 256", async () => {
    const { stdout } = await runCli(["plan", model, "-c", "300", "--json"])
    expect(JSON.parse(stdout)).toMatchObject({ contextSize: 512 })
  })

  test("shows the split without loading", async () => {
    const result = await runCli(["plan", "--rpc", rpc, model, "-c", "1024"])
    expect(result.exitCode).toBe(0)
    expect(result.stderr).toBe("")
    const lines = result.stdout.trimEnd().split("\n")
    expect(lines[0]).toBe("ggml-rpc demo: llama, 8 layers, 2.64 MiB, context 1024")
    expect(lines.slice(2, 5).map((line) => line.split(/ +/)[0])).toEqual(["RPC0", "RPC1", "CPU"])
  })

  test("--json", async () => {
    const result = await runCli(["plan", "--rpc", rpc, "-m", model, "-ts", "1,0", "--json"])
    const [plan, ...more] = jsonLines(result.stdout)
    expect(more).toEqual([])
    expect(plan).toMatchObject({
      event: "plan",
      contextSize: 4096,
      unitCount: 9,
      devices: [
        { name: "RPC0", unitCount: 9, layers: "0–7, output" },
        { name: "RPC1", unitCount: 0, layers: "–" },
      ],
    })
  })
})

describe("devices", () => {
  test("lists servers in the order of a split, then this machine", async () => {
    const result = await runCli(["devices", "--rpc", rpc])
    expect(result.exitCode).toBe(0)
    const places = result.stdout
      .split("\n")
      .map((line) => line.split(/ {2,}/).slice(0, 2).join(" "))
    expect(places.slice(0, 3)).toEqual([
      "device place",
      ...rpc.split(",").map((endpoint, index) => `RPC${index} ${endpoint}`),
    ])
    expect(result.stdout).toMatch(/^CPU +local /m)
  })

  test("uses a server that is named twice once, with a word", async () => {
    const [first] = rpc.split(",")
    const { stdout, stderr, exitCode } = await runCli(["devices", "--rpc", `${first},${first}`])
    expect(stderr).toBe("warning: --rpc names a server more than once; it is used once\n")
    expect(stdout.match(/^RPC\d+(?= {2})/gm)).toEqual(["RPC0"])
    expect(exitCode).toBe(0)
  })

  test("is this machine alone for --rpc none", async () => {
    const { stdout, exitCode } = await runCli(["devices", "--rpc", "none"])
    expect(stdout).not.toContain("RPC0")
    expect(stdout).toMatch(/^CPU +local /m)
    expect(exitCode).toBe(0)
  })

  test("says that servers of one host share its memory, with the CPU of this one", async () => {
    const text = await runCli(["devices", "--rpc", rpc])
    expect(text.stdout).toMatch(
      /^RPC0, RPC1 and CPU share one memory: its \S+ GiB free are counted once$/m,
    )
    const json = await runCli(["devices", "--rpc", rpc, "--json"])
    const [{ devices, shared }] = jsonLines(json.stdout) as unknown as [
      { devices: ReadonlyArray<{ memory: string }>; shared: unknown },
    ]
    expect(new Set(devices.map(({ memory }) => memory)).size).toBe(1)
    expect(devices[0]!.memory).toMatch(/^[0-9a-f]{32}$/)
    expect(shared).toMatchObject([{ devices: ["RPC0", "RPC1", "CPU"] }])
    const plan = await runCli(["plan", "--rpc", rpc, model])
    expect(plan.stdout).toMatch(
      /^RPC0, RPC1 and this host share one memory: its \S+ GiB free are counted once$/m,
    )
  })

  test("takes one server under two names for one, and so does a run", async () => {
    const [first] = servers
    const other = first!.endpoint.replace("127.0.0.1", "localhost")
    const both = `${first!.endpoint},${other}`
    const words = `${other} and ${first!.endpoint} are one server, whose memory can be used once`
    const listed = await runCli(["devices", "--rpc", both])
    expect(listed.exitCode).toBe(1)
    expect(listed.stderr).toContain(words)
    const planned = await runCli(["plan", "--rpc", both, model])
    expect(planned.exitCode).toBe(1)
    expect(planned.stderr).toContain(words)
  })

  test("a server that fails is in the list with its error, exit code 1", async () => {
    const text = await runCli(["devices", "--rpc", `127.0.0.1:1,${rpc}`])
    expect(text.exitCode).toBe(1)
    expect(text.stdout).toMatch(/127\.0\.0\.1:1 .+ cannot be used/)
    expect(text.stdout).toContain("RPC1")
    expect(text.stderr).toContain("error: Cannot connect to 127.0.0.1:1")
    const json = await runCli(["devices", "--rpc", `127.0.0.1:1,${rpc}`, "--json"])
    expect(json.exitCode).toBe(1)
    const [listed, ...more] = jsonLines(json.stdout)
    expect(more).toEqual([])
    expect(listed).toMatchObject({
      devices: [{ place: servers[0]!.endpoint }, { place: servers[1]!.endpoint }, {}],
      errors: [{ endpoint: "127.0.0.1:1", error: "ConnectError" }],
    })
  })
})

describe("verify", () => {
  test("passes over two servers, for logits and for embeddings", async () => {
    const { bert: embeddings } = writeEncoderModels(folder.path)
    const text = await runCli(["verify", "--rpc", rpc, model, embeddings])
    expect(text.stderr).toContain("Comparing RPC0")
    expect(text.stdout).toMatch(/^demo\.gguf .+ top-1 100\.0%, KL .+ ok$/m)
    expect(text.stdout).toMatch(/^bert\.gguf .+ cosine 1\.0+ +ok$/m)
    expect(text.stdout).toContain("2 of 2 agree (tolerance: NMSE 0.0001)")
    expect(text.exitCode).toBe(0)

    const json = await runCli(["verify", "--rpc", rpc, embeddings, "--tokens", "3,1,2", "--json"])
    expect(jsonLines(json.stdout)).toEqual([
      expect.objectContaining({
        event: "verify",
        kind: "embeddings",
        tokenCount: 3,
        isPassed: true,
      }),
    ])
    expect(json.exitCode).toBe(0)
  })

  test("a file that cannot be used does not stop the others", async () => {
    const broken = join(folder.path, "broken.gguf")
    writeFileSync(broken, "GGUF, or so it says")
    const result = await runCli(["verify", "--rpc", rpc, broken, model])
    expect(result.stdout).toMatch(/^broken\.gguf .+ FAILED$/m)
    expect(result.stdout).toMatch(/^demo\.gguf .+ ok$/m)
    expect(result.stdout).toContain("1 of 2 agrees")
    expect(result.stderr).toContain(`error: ${broken}`)
    expect(result.exitCode).toBe(1)
    const outside = await runCli(["verify", "--rpc", rpc, model, "--tokens", "5,389"])
    expect(outside.stderr).toContain("has 389 tokens")
    expect(outside.exitCode).toBe(1)
  })

  test("finds a server that computes something else", async () => {
    using wrong = startProxy(servers[0]!.port, {
      onRequest: (command, payload) => {
        // A hundred numbers in the middle of each larger weight matrix: small ones in place of others.
        if (command === Command.SET_TENSOR && payload.length > 30_000) {
          payload.fill(0x11, payload.length >> 1, (payload.length >> 1) + 200)
        }
      },
    })
    const result = await runCli(["verify", "--rpc", wrong.endpoint, model])
    expect(result.stdout).toMatch(/^demo\.gguf .+ DIFFERS$/m)
    expect(result.stdout).toContain("0 of 1 agree")
    expect(result.exitCode).toBe(1)
    // What differs a little passes where that much is allowed.
    const lenient = await runCli(["verify", "--rpc", wrong.endpoint, model, "--tolerance", "1e9"])
    expect(lenient.exitCode).toBe(0)
  })

  test("goes on after the engine died", async () => {
    const copies = join(folder.path, "copies")
    mkdirSync(copies)
    const paths = Array.from({ length: 12 }, (_, index) => join(copies, `${index}.gguf`))
    for (const path of paths) linkSync(model, path)
    await using child = startCli(["verify", "--rpc", rpc, "--json", ...paths])
    await waitUntil(() => jsonLinesSoFar(child).length > 0, 20_000)
    process.kill(engineOf(child), "SIGKILL")
    expect(await child.exited).toBe(1)
    const results = jsonLines(child.stdout())
    expect(results).toHaveLength(paths.length)
    const failed = results.filter(({ isPassed }) => isPassed === false)
    expect(failed.map(({ error }) => error)).toEqual(["EngineEndedError"])
    expect(results.at(-1)).toMatchObject({ isPassed: true })
  })
})

const jsonLinesSoFar = (child: ChildProcess): ReadonlyArray<unknown> =>
  jsonLines(child.stdout().slice(0, child.stdout().lastIndexOf("\n") + 1))

/** One of its two engines; the answer to either's end is the same. */
const engineOf = (child: ChildProcess): number =>
  groupMembers(child.pid).find((pid) =>
    // From its source, or its bundle where that is up to date.
    /engine\/main\.ts|client-engine\.js/.test(readFileSync(`/proc/${pid}/cmdline`, "utf8")),
  )!

describe("serve", () => {
  test.each(["SIGINT", "SIGTERM"] as const)(
    "says where it listens and what it offers; %s ends it and its sessions, exit code 0",
    async (signal) => {
      await using child = startCli(["serve", "-p", "0", "-t", "1", "-d", "CPU"])
      const listening = await waitUntil(() => child.stdout().includes("listening on"), 20_000)
      expect(listening).toBe(true)
      expect(child.stdout()).toMatch(
        /^Starting RPC server v\d+\.0\.0\n {2}protocol {7}: 2\.0 to \d+\.0, as the client speaks\n {2}endpoint {7}: 127\.0\.0\.1:\d+\n {2}local cache {4}: n\/a\nDevices:\n {2}CPU: .+ \(\d+ MiB, \d+ MiB free\)\n(.+\n)*listening on 127\.0\.0\.1:\d+\n$/,
      )
      expect(child.stderr()).not.toContain("warning")
      child.signal(signal)
      expect(await child.exited).toBe(0)
      expect(groupMembers(child.pid)).toEqual([])
    },
  )

  test("a signal that comes twice at once, as through bunx, ends it as well", async () => {
    await using child = startCli(["serve", "-p", "0", "-t", "1", "-d", "CPU"])
    await waitUntil(() => child.stdout().includes("listening on"), 20_000)
    child.signal("SIGINT")
    child.signal("SIGINT")
    await Bun.sleep(5)
    child.signal("SIGINT")
    expect(await child.exited).toBe(0)
    expect(groupMembers(child.pid)).toEqual([])
  })

  test("warns when others can reach it, and finds the cache folder", async () => {
    const cache = join(folder.path, "cache")
    await using child = startCli(["serve", "-p", "0", "-H", "0.0.0.0", "-c"], {
      env: { LLAMA_CACHE: cache },
    })
    await waitUntil(() => child.stdout().includes("listening on"), 20_000)
    expect(child.stdout()).toContain(`local cache    : ${join(cache, "rpc")}`)
    expect(child.stderr()).toMatch(/warning: .*0\.0\.0\.0/)
    child.signal("SIGTERM")
    expect(await child.exited).toBe(0)
  })

  test("listens on IPv6, with brackets or without", async () => {
    for (const host of ["::1", "[::1]"]) {
      await using child = startCli(["serve", "-p", "0", "-H", host])
      await waitUntil(() => child.stdout().includes("listening on"), 20_000)
      const endpoint = /listening on (\[::1\]:\d+)/.exec(child.stdout())?.[1]
      const listed = await runCli(["devices", "--rpc", endpoint!])
      expect(listed.stdout).toContain(endpoint!)
      expect(listed.exitCode).toBe(0)
    }
  })
})

describe("cache", () => {
  const cacheRoot = join(folder.path, "cache")
  const cached = join(cacheRoot, "rpc")
  const withCache = (...args: string[]) =>
    runCli(["cache", ...args], { env: { LLAMA_CACHE: cacheRoot } })
  const good = new Uint8Array(1000).fill(7)
  const goodName = new Fnv1a64().update(good).digestHex()

  test("lists, verifies and prunes", async () => {
    const none = await withCache("ls")
    expect([none.exitCode, none.stdout]).toEqual([0, ""])
    expect(none.stderr).toContain(`0 files, 0 B in ${cached}`)
    mkdirSync(cached, { recursive: true })
    writeFileSync(join(cached, goodName), good)
    writeFileSync(join(cached, "0123456789abcdef"), good)
    writeFileSync(join(cached, "notes.txt"), "not of the cache")
    const listed = JSON.parse((await withCache("ls", "--json")).stdout)
    expect(listed.files.map(({ name }: { name: string }) => name).sort()).toEqual(
      [goodName, "0123456789abcdef"].sort(),
    )
    const damaged = await withCache("verify")
    expect([damaged.exitCode, damaged.stdout]).toEqual([
      1,
      "damaged: 0123456789abcdef (0.98 KiB)\n",
    ])
    expect((await withCache("verify", "--remove")).exitCode).toBe(0)
    // A server may have made a folder to write in.
    const left = (): readonly string[] =>
      readdirSync(cached)
        .filter((file) => !file.startsWith("."))
        .sort()
    expect(left()).toEqual([goodName, "notes.txt"].sort())
    expect((await withCache("prune", "--keep", "1k")).stderr).toContain("removed 0 files")
    expect((await withCache("prune", "--keep", "0")).stderr).toContain("removed 1 file (0.98 KiB)")
    expect(left()).toEqual(["notes.txt"])
  })

  test("says what it takes, and where it cannot look", async () => {
    const wrong = await withCache("purge")
    expect([wrong.exitCode, wrong.stderr]).toEqual([
      2,
      expect.stringContaining("cache takes one of ls, verify, prune, not 'purge'"),
    ])
    const file = await runCli(["cache", "ls"], { env: { LLAMA_CACHE: model } })
    expect([file.exitCode, file.stderr]).toEqual([1, expect.stringContaining(join(model, "rpc"))])
  })
})

describe("demo", () => {
  test("splits, recites, and leaves nothing behind", async () => {
    const temp = join(folder.path, "temp")
    mkdirSync(temp)
    // runProcess fails when a process outlives it.
    const result = await runCli(["demo"], { env: { TMPDIR: temp } })
    expect(result.exitCode).toBe(0)
    expect(result.stderr).toBe("")
    expect(result.stdout).toContain(recitalText)
    expect(result.stdout).toMatch(/^RPC0 .+ 0–\d /m)
    expect(result.stdout).toMatch(/^RPC1 .+, output /m)
    expect(result.stdout).toMatch(/^generation .+ tokens\/s/m)
    expect(readdirSync(temp)).toEqual([])
  })

  test("says in words where --save cannot keep it", async () => {
    const { stderr, exitCode } = await runCli(["demo", "--save", "/no/such/folder/demo.gguf"])
    expect(stderr).toBe(
      "error: The demo model cannot be written to /no/such/folder/demo.gguf: there is no such file or folder.\n",
    )
    expect(exitCode).toBe(1)
  })

  test("--save keeps the model", async () => {
    const path = join(folder.path, "kept.gguf")
    const result = await runCli(["demo", "--save", path])
    expect(result.exitCode).toBe(0)
    expect(readFileSync(path).equals(readFileSync(model))).toBe(true)
    const refused = await runCli(["demo", "--save", join(folder.path, "no-folder", "x.gguf")])
    expect(refused.exitCode).toBe(1)
    expect(refused.stderr).toContain("cannot be written")
    expect(existsSync(join(folder.path, "no-folder"))).toBe(false)
  })

  test("a signal in the middle leaves nothing behind either", async () => {
    const temp = join(folder.path, "temp-signal")
    mkdirSync(temp)
    await using child = startCli(["demo"], { env: { TMPDIR: temp } })
    await waitUntil(() => child.stdout().includes("1. Two servers"), 20_000)
    child.signal("SIGTERM")
    expect(await child.exited).toBe(143)
    expect(groupMembers(child.pid)).toEqual([])
    expect(readdirSync(temp)).toEqual([])
  })
})

describe("help", () => {
  test("goes to stdout, plain in a pipe, without loading the libraries", async () => {
    const env = { GGML_RPC_VARIANT: "none-such" }
    const version = await runCli(["--version"], { env })
    expect(version).toMatchObject({ exitCode: 0, stderr: "" })
    expect(version.stdout).toBe(`ggml-rpc ${packageJson.version}\n`)
    const help = await runCli(["run", "--help"], { env })
    expect(help).toMatchObject({ exitCode: 0, stderr: "" })
    expect(help.stdout).toContain("-ngl, --gpu-layers, --n-gpu-layers")
    expect(help.stdout).not.toContain("\x1b")
    const nothing = await runCli([], { env })
    expect(nothing.exitCode).toBe(2)
    expect(nothing.stdout).toContain("Usage: ggml-rpc <command>")
  })

  test("completions name the commands and their flags", async () => {
    const result = await runCli(["completion", "bash"])
    expect(result).toMatchObject({ exitCode: 0, stderr: "" })
    for (const word of ["serve", "--tensor-split", "--max-clients"]) {
      expect(result.stdout).toContain(word)
    }
  })
})
