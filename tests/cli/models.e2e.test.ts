/** Models by name as a user gets them: from a hub on this machine, by real processes, and beside llama.cpp's own. */
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  setDefaultTimeout,
  test,
} from "bun:test"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { writeGguf } from "@ggml-rpc/gguf"
import { demoModel, recitalText, writeDemoModel } from "ggml-rpc/demo-model"
import {
  COMMIT,
  type FakeFile,
  type FakeHub,
  sha256,
  startFakeHub,
  TOKEN,
} from "../../packages/models/test/FakeHub.ts"
import { ensurePeers } from "../peers/peers.ts"
import { type FinishedProcess, runProcess, type StartOptions, waitUntil } from "../peers/process.ts"
import { ggmlRpc, type OurServer, startOurServer } from "../servers.ts"
import { jsonLines, runCli, startCli, temporaryFolder } from "./program.ts"

setDefaultTimeout(60_000)

const folder = temporaryFolder()
let hub: FakeHub
let server: OurServer
let demo: FakeFile
let home: string

beforeAll(async () => {
  const path = join(folder.path, "demo.gguf")
  writeDemoModel(path)
  demo = { content: new Uint8Array(readFileSync(path)) }
  server = await startOurServer()
  hub = await startFakeHub()
})
afterAll(async () => {
  await server?.stop()
  await hub[Symbol.asyncDispose]()
  folder[Symbol.dispose]()
})

beforeEach(() => {
  home = mkdtempSync(join(folder.path, "home-"))
  hub.fault = () => undefined
  hub.apiStatus = undefined
  hub.storageRequests.length = 0
  hub.repos.clear()
  hub.repos.set("user/demo", {
    files: { "demo-Q8_0.gguf": demo, "demo-Q4_K_M.gguf": demo, "README.md": demo },
  })
})

/** An environment in which nothing but the test's own folder and hub is known. */
const environment = (more: Record<string, string | undefined> = {}) => ({
  HOME: home,
  // Bun's own cache of what it compiled would fill the home.
  BUN_RUNTIME_TRANSPILER_CACHE_PATH: "0",
  HF_ENDPOINT: hub.endpoint,
  MODEL_ENDPOINT: undefined,
  HF_TOKEN: undefined,
  LLAMA_CACHE: undefined,
  HF_HOME: undefined,
  HF_HUB_CACHE: undefined,
  HUGGINGFACE_HUB_CACHE: undefined,
  XDG_CACHE_HOME: undefined,
  ...more,
})

const cli = (
  args: readonly string[],
  env: Record<string, string | undefined> = {},
): Promise<FinishedProcess> => runCli(args, { env: environment(env) })

const start = (args: readonly string[], options: StartOptions = {}) =>
  startCli(args, { ...options, env: environment() })

const hubFolder = () => join(home, ".cache", "huggingface", "hub")
const snapshot = (repo: string, file: string) =>
  join(hubFolder(), `models--${repo.replace("/", "--")}`, "snapshots", COMMIT, file)
const blobs = (repo: string): readonly string[] =>
  readdirSync(join(hubFolder(), `models--${repo.replace("/", "--")}`, "blobs")).sort()

/** The one paragraph that a failed call prints. */
const failure = async (
  args: readonly string[],
  exitCode = 1,
  env: Record<string, string | undefined> = {},
): Promise<string> => {
  const result = await cli(args, env)
  expect(result.stdout).toBe("")
  const paragraph = result.stderr.trimEnd()
  expect(paragraph).toStartWith("error: ")
  expect(paragraph).not.toContain("\n")
  expect(result.exitCode).toBe(exitCode)
  return paragraph
}

/** Takes seconds to come; each 4 KiB are others. */
const largeFile = (sizeBytes: number): FakeFile => {
  const content = new Uint8Array(sizeBytes)
  for (let at = 0; at < sizeBytes; at += 4096) content[at] = at >> 12
  return { content }
}

describe("run, plan and verify", () => {
  test("run downloads a model once, and runs it over a server", async () => {
    const args = ["run", "-hf", "user/demo", "--rpc", server.endpoint, "-p", "Hello", "--temp", "0"]
    const first = await cli(args)
    expect(first).toMatchObject({ exitCode: 0, stdout: `${recitalText}\n` })
    expect(first.stderr).not.toContain("downloading")
    expect(hub.storageRequests).toHaveLength(1)
    const second = await cli([...args, "--offline"])
    expect(second.stdout).toBe(first.stdout)
    expect(hub.storageRequests).toHaveLength(1)
    expect(existsSync(snapshot("user/demo", "demo-Q4_K_M.gguf"))).toBe(true)
  })

  test("plan reads the header alone, and is that of the file", async () => {
    const path = join(home, "large.gguf")
    writeDemoModel(path)
    const temporary = join(home, "tmp")
    mkdirSync(temporary)
    const args = ["--rpc", server.endpoint, "--json"]
    const byName = await cli(["plan", "-hf", "user/demo:q8_0", ...args], { TMPDIR: temporary })
    const gets = hub.storageRequests.filter(({ method }) => method === "GET")
    const fetched = gets.reduce((sum, { range }) => sum + range![1] + 1 - range![0], 0)
    expect(fetched).toBeLessThan(demo.content.length / 2)
    expect(existsSync(hubFolder())).toBe(false)
    const byPath = await cli(["plan", path, ...args])
    const [named] = jsonLines(byName.stdout) as unknown as [Planned]
    const [filed] = jsonLines(byPath.stdout) as unknown as [Planned]
    expect(named.model.path).toBe("user/demo:q8_0")
    expect(named.downloadBytes).toBe(demo.content.length)
    expect(filed.downloadBytes).toBeUndefined()
    expect(named.devices.map(({ layers, weightBytes }) => [layers, weightBytes])).toEqual(
      filed.devices.map(({ layers, weightBytes }) => [layers, weightBytes]),
    )
    expect(readdirSync(temporary)).toEqual([])
  })

  test("plan by URL, and verify", async () => {
    const url = hub.serveFile("by-url.gguf", demo.content, '"one"')
    const plan = await cli(["plan", "-mu", `${url}?key=secret`, "--device", "none"])
    expect(plan).toMatchObject({ exitCode: 0 })
    expect(plan.stderr).toContain(`${url} is not on this disk`)
    expect(plan.stderr).not.toContain("secret")
    const path = join(home, "mine.gguf")
    const verified = await cli(["verify", "-mu", url, "-m", path, "--rpc", server.endpoint])
    expect(verified).toMatchObject({ exitCode: 0 })
    expect(verified.stdout).toContain("mine.gguf")
    expect(existsSync(path)).toBe(true)
  })

  test("a model of several files is planned from its headers, and run from its files", async () => {
    hub.repos.set("user/split", { files: splitDemo() })
    const args = ["-hf", "user/split", "--rpc", server.endpoint]
    const plan = await cli(["plan", ...args])
    expect(plan).toMatchObject({ exitCode: 0 })
    expect(plan.stderr).toContain("a run would download 2.6")
    expect(existsSync(hubFolder())).toBe(false)
    const run = await cli(["run", ...args, "-p", "Hello", "--temp", "0"])
    expect(run).toMatchObject({ exitCode: 0, stdout: `${recitalText}\n` })
    expect((await cli(["ls"])).stdout).toMatch(/user\/split:Q8_0 +2\.6\d MiB +2 /)
  })

  test("a server that is not there is told before the download", async () => {
    const args = ["run", "-hf", "user/demo", "--rpc", "127.0.0.1:1", "-p", "a"]
    expect(await failure(args)).toContain("Cannot connect to 127.0.0.1:1")
    expect(hub.storageRequests).toHaveLength(0)
  })
})

/** The demo model in two files, as llama.cpp's gguf-split makes them. */
const splitDemo = (): Record<string, FakeFile> => {
  const { metadata, tensors } = demoModel()
  const half = Math.ceil(tensors.length / 2)
  const files = [0, 1].map((index) => {
    const name = `Q8_0/demo-Q8_0-0000${index + 1}-of-00002.gguf`
    const path = join(home, `part-${index}.gguf`)
    writeGguf(path, {
      metadata: [
        ...(index === 0 ? metadata : []),
        ["split.no", { type: "uint16", value: index }],
        ["split.count", { type: "uint16", value: 2 }],
        ["split.tensors.count", { type: "int32", value: tensors.length }],
      ],
      tensors: tensors.slice(index * half, (index + 1) * half),
    })
    return [name, { content: new Uint8Array(readFileSync(path)) }] as const
  })
  return Object.fromEntries(files)
}

interface Planned {
  readonly model: { readonly path: string }
  readonly downloadBytes?: number
  readonly devices: ReadonlyArray<{ readonly layers: string; readonly weightBytes: number }>
}

describe("pull, ls and rm", () => {
  test("what is pulled is listed, and removed", async () => {
    const url = hub.serveFile("by-url.gguf", demo.content)
    const pulled = await cli(["pull", "user/demo", "user/demo:Q8_0", "-mu", url])
    expect(pulled.stdout.trimEnd().split("\n")).toEqual([
      snapshot("user/demo", "demo-Q4_K_M.gguf"),
      snapshot("user/demo", "demo-Q8_0.gguf"),
      join(home, ".cache", "llama.cpp", "by-url.gguf"),
    ])
    expect(pulled.stderr).toBe("")
    const listed = await cli(["ls"])
    expect(listed.stdout).toMatch(/user\/demo:Q4_K_M +2\.6\d MiB +1 /)
    expect(listed.stderr).toContain("3 models")
    const removed = await cli(["rm", "user/demo", "by-url.gguf"])
    expect(removed).toMatchObject({ exitCode: 0, stdout: "" })
    expect(removed.stderr).toMatch(/removed user\/demo: 2\.\d+ MiB are free again/)
    const [empty] = jsonLines((await cli(["ls", "--json"])).stdout)
    expect(empty).toMatchObject({ models: [], partials: [], hubFolder: hubFolder() })
  })

  test("events tell programs", async () => {
    const { stdout } = await cli(["pull", "user/demo", "--json"])
    const events = jsonLines(stdout)
    const sizeBytes = demo.content.length
    expect(events[0]).toEqual({
      event: "download",
      isDone: false,
      doneBytes: 0,
      totalBytes: sizeBytes,
    })
    expect(events.at(-2)).toMatchObject({ isDone: true, downloadedBytes: sizeBytes })
    expect(events.at(-1)).toMatchObject({
      event: "model",
      name: "user/demo",
      path: snapshot("user/demo", "demo-Q4_K_M.gguf"),
    })
    const failed = await cli(["pull", "user/none", "--json"])
    expect(failed.exitCode).toBe(1)
    expect(jsonLines(failed.stdout)[0]).toMatchObject({ event: "error", error: "ModelAccessError" })
  })

  test("a terminal sees the rate and the time that is left", async () => {
    hub.repos.set("user/large", { files: { "a-Q8_0.gguf": largeFile(4_000_000) } })
    hub.fault = () => ({ pieceDelayMs: 3 })
    let seen = ""
    const decoder = new TextDecoder()
    const child = Bun.spawn([...ggmlRpc, "pull", "user/large"], {
      env: { ...process.env, ...environment({ NO_COLOR: undefined }) },
      terminal: {
        cols: 100,
        rows: 20,
        data: (_, data) => {
          seen += decoder.decode(data)
        },
      },
    })
    expect(await child.exited).toBe(0)
    expect(seen).toMatch(/downloading \d+%, [\d.]+ \w+ of 3\.81 MiB, [\d.]+ \wiB\/s, ETA \d+ s/)
    expect(seen).toMatch(/downloaded 3\.81 MiB in [\d.]+ s \([\d.]+ \wiB\/s\)/)
    expect(seen).toContain(`${COMMIT}/a-Q8_0.gguf`)
  })
})

describe("a download", () => {
  test.each(["SIGINT", "SIGKILL"] as const)("that %s ends is gone on with", async (signal) => {
    const large = largeFile(20_000_000)
    hub.repos.set("user/large", { files: { "a-Q8_0.gguf": large } })
    hub.fault = () => ({ pieceDelayMs: 4 })
    await using child = start(["pull", "user/large", "--json"])
    // The journal is written once a second.
    const isUnderWay = await waitUntil(() => {
      const events = jsonLines(child.stdout().replace(/[^\n]*$/, ""))
      return events.some(({ doneBytes }) => Number(doneBytes) > 6_000_000)
    }, 30_000)
    expect(isUnderWay).toBe(true)
    child.signal(signal)
    expect(await child.exited).toBe(signal === "SIGINT" ? 130 : 137)
    if (signal === "SIGINT") expect(child.stderr()).toContain("the same command goes on from there")
    const oid = sha256(large.content)
    expect(blobs("user/large")).toEqual([`${oid}.part`, `${oid}.part.json`])
    expect((await cli(["ls"])).stdout).toMatch(/user\/large .*a download that stopped/)
    hub.fault = () => undefined
    hub.storageRequests.length = 0
    const again = await cli(["pull", "user/large"])
    expect(again.exitCode).toBe(0)
    expect(hub.storageRequests[0]!.range![0]).toBeGreaterThan(3_000_000)
    expect(sha256(new Uint8Array(readFileSync(again.stdout.trim())))).toBe(oid)
    expect(blobs("user/large")).toEqual([oid])
  })

  test("that two processes want is one", async () => {
    hub.fault = () => ({ pieceDelayMs: 10 })
    const pulls = await Promise.all([1, 2].map(() => cli(["pull", "user/demo"])))
    expect(pulls.map(({ exitCode }) => exitCode)).toEqual([0, 0])
    expect(pulls[0]!.stdout).toBe(pulls[1]!.stdout)
    expect(hub.storageRequests).toHaveLength(1)
    expect(pulls.map(({ stderr }) => stderr).join("")).toContain("waiting for it")
  })

  test("that a broken connection and a busy hub disturb arrives", async () => {
    hub.fault = ({ index }) =>
      index === 0 ? { breakAfter: 1_000_000 } : index === 1 ? { status: 503 } : undefined
    const { exitCode, stdout, stderr } = await cli(["pull", "user/demo"])
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" })
    expect(new Uint8Array(readFileSync(stdout.trim()))).toEqual(demo.content as never)
    expect(hub.storageRequests).toHaveLength(3)
  })

  /** `ggml-rpc` with a disk of its own behind LLAMA_CACHE. */
  const onSmallDisk = async (mebibytes: number, then: string, ...args: readonly string[]) => {
    const disk = join(home, "disk")
    mkdirSync(disk)
    const script = `mount -t tmpfs -o size=${mebibytes}m tmpfs ${disk} && ${then}`
    return runProcess(
      ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", ...ggmlRpc, ...args],
      { env: { ...environment({ LLAMA_CACHE: disk }), NO_COLOR: undefined } },
    )
  }

  test("that does not fit on the disk is told before it begins", async () => {
    const result = await onSmallDisk(2, 'exec "$@"', "pull", "user/demo")
    expect(result).toMatchObject({ exitCode: 1, stdout: "" })
    expect(result.stderr).toMatch(
      /^error: The disk of .*blobs is too small: 3 MiB are still needed and 2\.00 MiB are free\./,
    )
    expect(hub.storageRequests).toHaveLength(0)
  })

  test("on a disk that runs full is told, and goes on once there is room", async () => {
    hub.fault = () => ({ pieceDelayMs: 20 })
    // Filled once the download has its file, and emptied before it is called again.
    const then = `("$@" & until ls $LLAMA_CACHE/models*/blobs/*.part; do sleep 0.05; done
      head -c 3000000 /dev/zero > $LLAMA_CACHE/filler; wait $!; echo "first $?"
      rm $LLAMA_CACHE/filler; "$@"; echo "second $?") 2>&1`
    const { stdout } = await onSmallDisk(4, then, "pull", "user/demo")
    expect(stdout).toContain("is too small")
    expect(stdout).toMatch(/[\d.]+ [KM]iB of the model are here and stay/)
    expect(stdout).toMatch(/first 1\n/)
    expect(stdout).toMatch(/demo-Q4_K_M\.gguf\nsecond 0\n/)
    expect(hub.storageRequests.at(-1)!.range![0]).toBeGreaterThan(0)
  })
})

test("a cache that can only be read is used, and told where it does not suffice", async () => {
  await cli(["pull", "user/demo"])
  const script = `mount --bind ${home} ${home} && mount -o remount,bind,ro ${home} && exec "$@"`
  const readOnly = (...args: readonly string[]) =>
    runProcess(
      ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", ...ggmlRpc, ...args],
      { env: { ...environment(), NO_COLOR: undefined } },
    )
  expect(await readOnly("pull", "user/demo")).toMatchObject({
    exitCode: 0,
    stdout: `${snapshot("user/demo", "demo-Q4_K_M.gguf")}\n`,
  })
  const { exitCode, stderr } = await readOnly("pull", "user/demo:Q8_0")
  expect(exitCode).toBe(1)
  expect(stderr).toMatch(/^error: .* cannot be used to keep models: it is on a disk that can only/)
  const removed = await readOnly("rm", "user/demo")
  expect(removed.exitCode).toBe(1)
  expect(removed.stderr).toContain("a disk that can only be read")
})

describe("what goes wrong is one paragraph", () => {
  const run = (...args: readonly string[]) => ["run", "-p", "a", ...args]

  test("names that are none", async () => {
    expect(await failure(run("-hf", "demo"), 2)).toContain("'demo' names no model")
    expect(await failure(run("-mu", "demo.gguf"), 2)).toContain("'demo.gguf' names no model")
    expect(await failure(run("-hff", "demo.gguf"), 2)).toContain("-hf names")
    expect(await failure(run("-hf", "a/b", "c.gguf"), 2)).toContain("two models are given")
    expect(await failure(run(), 2)).toContain("one of Hugging Face with -hf")
    expect(await failure(["pull"], 2)).toContain("no model is given")
    expect(await failure(["rm"], 2)).toContain("no model is given")
    expect(await failure(["rm", "user/none"])).toContain("'ggml-rpc ls' lists what is")
  })

  test("what the hub does not have or does not give", async () => {
    hub.repos.set("user/gated", { files: { "a-Q8_0.gguf": demo }, access: "gated" })
    hub.repos.set("user/safetensors", { files: { "model.safetensors": demo } })
    expect(await failure(run("-hf", "user/demo:Q2_K"))).toContain("has Q8_0, Q4_K_M")
    expect(await failure(run("-hf", "user/none"))).toContain("there is none of that name, or")
    expect(await failure(run("-hf", "user/none"), 1, { HF_TOKEN: TOKEN })).toContain(
      "has no such repository",
    )
    expect(await failure(run("-hf", "user/safetensors"))).toContain("has no GGUF files")
    for (const command of ["plan", "pull"]) {
      const hf = ["-hf", "user/gated"]
      expect(await failure([command, ...hf])).toContain("is gated: ask for access on")
    }
    const pulled = await cli(["pull", "user/gated", "-hft", TOKEN])
    expect(pulled.exitCode).toBe(0)
  })

  test("lies: sizes and checksums", async () => {
    hub.repos.set("user/size", { files: { "a-Q8_0.gguf": { ...demo, statedBytes: 99 } } })
    hub.repos.set("user/sum", { files: { "a-Q8_0.gguf": { ...demo, statedOid: "0".repeat(64) } } })
    expect(await failure(["pull", "user/size"])).toContain("99 bytes were announced")
    expect(await failure(["pull", "user/sum"])).toContain("arrived damaged: its SHA-256 is")
    expect(blobs("user/size")).toEqual([])
    expect(blobs("user/sum")).toEqual([])
  })

  test("no network", async () => {
    const nowhere = { HF_ENDPOINT: "http://127.0.0.1:1" }
    expect(await failure(["pull", "user/demo"], 1, nowhere)).toContain("nobody answers")
    expect(await failure(run("-hf", "user/demo", "--offline"))).toContain("--offline forbids")
    await cli(["pull", "user/demo"])
    const cached = await cli(["pull", "user/demo"], nowhere)
    expect(cached).toMatchObject({ exitCode: 0 })
    expect(cached.stderr).toMatch(/^note: .*nobody answers.* is used\.\n$/)
  })

  test("a file that is no model", async () => {
    hub.repos.set("user/text", {
      files: { "a-Q8_0.gguf": { content: new TextEncoder().encode("once upon a time") } },
    })
    const plan = await failure(["plan", "-hf", "user/text"])
    expect(plan).toContain("a-Q8_0.gguf is not a GGUF file")
  })
})

describe("beside llama.cpp", () => {
  const upstream = async (...args: readonly string[]) => {
    const { "llama-completion": path } = await ensurePeers(["llama-completion"])
    return runProcess([path, ...args, "-t", "1"], { env: environment() })
  }
  const prompt = ["-p", "Hello", "-n", "4", "--temp", "0", "-no-cnv"]

  test("what it has downloaded is found", async () => {
    const url = hub.serveFile("by-url.gguf", demo.content, '"one"')
    await upstream("-hf", "user/demo:Q8_0", ...prompt)
    await upstream("-mu", url, ...prompt)
    hub.storageRequests.length = 0
    const { stdout, exitCode } = await cli(["pull", "user/demo:Q8_0", "-mu", url])
    expect(exitCode).toBe(0)
    expect(stdout).toContain("demo-Q8_0.gguf\n")
    expect(hub.storageRequests.map(({ method }) => method)).toEqual(["HEAD"])
    expect((await cli(["ls"])).stderr).toContain("2 models")
  }, 300_000)

  test("and it finds what we have, and sees what we remove", async () => {
    const url = hub.serveFile("by-url.gguf", demo.content, '"one"')
    await cli(["pull", "user/demo", "-mu", url])
    hub.storageRequests.length = 0
    const offline = await upstream("-hf", "user/demo", "--offline", ...prompt)
    expect(offline.stdout).toContain("HelloYou are watching")
    const byUrl = await upstream("-mu", url, ...prompt)
    expect(byUrl.stdout).toContain("HelloYou are watching")
    expect(hub.storageRequests.map(({ method }) => method)).toEqual(["HEAD"])
    expect((await upstream("--cache-list")).stdout).toContain("user/demo:Q4_K_M")
    await cli(["rm", "user/demo:Q4_K_M"])
    expect((await upstream("--cache-list")).stdout).toContain("number of models in cache: 0")
  }, 300_000)
})
