/** What a terminal shows: lines of its width, the prompt before the text, timings after Ctrl-C. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { join } from "node:path"
import { writeDemoModel } from "ggml-rpc/demo-model"
import { waitUntil } from "../peers/process.ts"
import { ggmlRpc, noState, type OurServer, startOurServer } from "../servers.ts"
import { jsonLines, runCli, startCli, temporaryFolder } from "./program.ts"

setDefaultTimeout(60_000)

const COLUMNS = 60

const folder = temporaryFolder()
const model = join(folder.path, "demo.gguf")
let servers: ReadonlyArray<OurServer>
let rpc: string

beforeAll(async () => {
  writeDemoModel(model)
  writeDemoModel(join(folder.path, "a-model-with-a-name-of-some-length.gguf"))
  servers = await Promise.all([startOurServer(), startOurServer()])
  rpc = servers.map(({ endpoint }) => endpoint).join(",")
})

afterAll(async () => {
  await Promise.all(servers.map((server) => server.stop()))
  folder[Symbol.dispose]()
})

interface Shown {
  readonly text: () => string
  readonly type: (text: string) => void
  readonly exited: Promise<number>
}

/** `ggml-rpc` on a terminal. */
const onTerminal = (words: ReadonlyArray<string>): Shown => {
  let text = ""
  const decoder = new TextDecoder()
  const child = Bun.spawn([...ggmlRpc, ...words], {
    env: { ...process.env, ...noState, NO_COLOR: "1", TERM: "xterm", LLAMA_CACHE: folder.path },
    terminal: {
      cols: COLUMNS,
      rows: 40,
      data: (_, bytes) => {
        text += decoder.decode(bytes, { stream: true })
      },
    },
  })
  return {
    text: () => text.replaceAll("\r\n", "\n"),
    type: (typed) => child.terminal!.write(typed),
    exited: child.exited,
  }
}

/** Of what is shown, a line that is drawn again as it is at last. */
const tooLong = (text: string): ReadonlyArray<string> =>
  text
    .split("\n")
    .map((line) => line.split("\r").at(-1)!)
    .filter((line) => line.length > COLUMNS)

const greedy = ["run", model, "-p", "Hello", "--temp", "0"]

describe("60 columns hold", () => {
  const commands = (): Record<string, ReadonlyArray<string>> => ({
    devices: ["devices", "--rpc", rpc],
    plan: ["plan", model, "--rpc", rpc],
    run: [...greedy, "-n", "4", "--rpc", rpc],
    status: ["status", "--rpc", rpc],
    verify: ["verify", model, "--rpc", rpc],
    ls: ["ls"],
  })

  test.each(["devices", "plan", "run", "status", "verify", "ls"])("%s", async (name) => {
    const words = commands()[name]!
    const shown = onTerminal(words)
    expect(await shown.exited).toBe(0)
    expect(shown.text().split("\n").length).toBeGreaterThan(1)
    expect(tooLong(shown.text())).toEqual([])
    // A pipe has no limit, unless COLUMNS says one.
    const { stdout } = await runCli(words, { env: { COLUMNS: String(COLUMNS) } })
    expect(tooLong(stdout)).toEqual([])
  })

  test("all that is to be known of a plan", async () => {
    const shown = onTerminal(commands().plan!)
    await shown.exited
    for (const { endpoint } of servers) expect(shown.text()).toContain(`place ${endpoint}`)
    expect(shown.text()).toMatch(/RPC0\n {2}place \S+, layers 0–\d, weights [\d.]+ MiB,\n/)
  })
})

describe("the prompt", () => {
  test("stands before the text", async () => {
    const shown = onTerminal([...greedy, "-n", "4"])
    expect(await shown.exited).toBe(0)
    expect(shown.text()).toContain("\nHelloYou are watching")
  })

  test("does not where that is not wanted, nor in a pipe", async () => {
    const shown = onTerminal([...greedy, "-n", "4", "--no-display-prompt"])
    expect(await shown.exited).toBe(0)
    expect(shown.text()).toContain("\nYou are watching")
    const { stdout } = await runCli([...greedy, "-n", "4"])
    expect(stdout).toStartWith("You are watching")
  })
})

test("Ctrl-C in the middle of a text ends it with its timings", async () => {
  const shown = onTerminal([...greedy, "--ignore-eos", "--rpc", rpc])
  await waitUntil(() => shown.text().includes("watching"), 20_000)
  shown.type("\x03")
  expect(await shown.exited).toBe(130)
  expect(shown.text()).toMatch(/generation +\d+ tokens in .* tokens\/s\s\(cancelled\)/)
})

describe("a server that hangs", () => {
  const hang = async (...flags: ReadonlyArray<string>) => {
    await using server = await startOurServer()
    await using child = startCli([
      ...[...greedy, "--ignore-eos", "--rpc", server.endpoint, "--timeout", "7", ...flags],
    ])
    await waitUntil(() => child.stdout().includes("watching"), 20_000)
    const pids = [server.pid, ...server.sessionPids()]
    for (const pid of pids) process.kill(pid, "SIGSTOP")
    try {
      const exitCode = await child.exited
      return { exitCode, stdout: child.stdout(), stderr: child.stderr(), server: server.endpoint }
    } finally {
      for (const pid of pids) process.kill(pid, "SIGCONT")
    }
  }

  test("is named, and given up on", async () => {
    const { exitCode, stderr, server } = await hang()
    expect(stderr).toContain(`note: waiting for ${server} for 5 s now`)
    expect(stderr).toContain(`error: The server ${server} was silent for 7 s`)
    expect(exitCode).toBe(1)
  })

  test("is an event with --json", async () => {
    const { stdout, server } = await hang("--json")
    const events = jsonLines(stdout)
    const waiting = events.find(({ event }) => event === "waiting")
    expect(waiting).toMatchObject({ endpoint: server, isOver: false })
    // It is looked for once a second, more or less.
    expect(waiting?.waitedMs).toBeWithin(5000, 7000)
    expect(events.at(-1)).toMatchObject({
      ...{ event: "error", error: "ServerTimeoutError", endpoint: server, silenceMs: 7000 },
    })
  })
})
