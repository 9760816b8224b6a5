/** Flags, variables and settings of `ggml-rpc run` on the whole program. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { ensureModel } from "../models/models.ts"
import { ensurePeers } from "../peers/peers.ts"
import { runProcess } from "../peers/process.ts"
import { type OurServer, startOurServer } from "../servers.ts"
import { jsonLines, runCli, temporaryFolder } from "./program.ts"

setDefaultTimeout(60_000)

const folder = temporaryFolder()
let model: string
let server: OurServer
let completion: string

beforeAll(async () => {
  model = await ensureModel("tiny")
  completion = (await ensurePeers(["llama-completion"]))["llama-completion"]
  server = await startOurServer()
}, 300_000)

afterAll(async () => {
  await server?.stop()
  folder[Symbol.dispose]()
})

const prompt = "one two three, one two three, one two"
const given = ["-p", prompt, "-n", "16", "-t", "1", "-c", "256", "--temp", "0"]

test("variables and a file of settings give what the command line does not", async () => {
  const config = join(folder.path, "settings.json")
  writeFileSync(config, JSON.stringify({ json: true, "ctx-size": 1024, plan: { "ctx-size": 512 } }))
  const env = { LLAMA_ARG_RPC: server.endpoint, LLAMA_ARG_MODEL: model }
  const { stdout, stderr } = await runCli(["plan", "--config", config], { env })
  expect(stderr).toBe("")
  expect(JSON.parse(stdout)).toMatchObject({
    contextSize: 512,
    devices: [{ name: "RPC0", place: server.endpoint }],
  })
  const wrong = await runCli(["plan", model], { env: { LLAMA_ARG_CTX_SIZE: "many" } })
  expect(wrong.exitCode).toBe(2)
  expect(wrong.stderr).toStartWith("error: LLAMA_ARG_CTX_SIZE takes a whole number")
})

test("--list-devices lists them instead", async () => {
  const { stdout, exitCode } = await runCli(["run", "--list-devices", "--rpc", server.endpoint])
  expect(exitCode).toBe(0)
  expect(stdout).toContain(server.endpoint)
  expect(await runCli(["--list-devices", "--rpc", server.endpoint])).toMatchObject({
    exitCode: 0,
    stdout: expect.stringContaining(server.endpoint),
  })
})

test("--no-perf leaves the timings out", async () => {
  const told = await runCli(["run", model, ...given])
  const untold = await runCli(["run", model, ...given, "--no-perf"])
  expect(told.stderr).toContain("generation  16 tokens")
  expect(untold.stderr).not.toContain("tokens/s")
  expect(untold.stdout).toBe(told.stdout)
})

test("-r ends the text behind it, as llama-completion does", async () => {
  const { stdout: whole } = await runCli(["run", model, ...given])
  const text = whole.replace(/\n$/, "")
  const ending = text.slice(text.length / 2, text.length / 2 + 4)
  const flags = ["-r", "never there", "-r", ending]
  const quiet = ["-no-cnv", "--no-display-prompt", "--no-perf", "--no-warmup", "-dev", "none"]
  const theirs = await runProcess([completion, "-m", model, ...given, ...quiet, ...flags])
  const ours = await runCli(["run", model, ...given, ...flags])
  expect(ours.stdout.trimEnd()).toEndWith(ending)
  expect(ours.stdout.trimEnd().length).toBeLessThan(text.length)
  // It looks for the text at the end of whole tokens.
  expect(theirs.stdout.trimEnd()).toStartWith(ours.stdout.trimEnd())
})

test("--context-shift goes on where the context is full, and --keep says from what", async () => {
  const run = async (...flags: ReadonlyArray<string>) => {
    const words = ["run", model, ...given, "-n", "400", "--ignore-eos", "--json", ...flags]
    const events = jsonLines((await runCli(words)).stdout)
    const { tokenCount, stopReason } = events.find(({ event }) => event === "stats")!
    const text = events.filter(({ event }) => event === "token").map(({ text: part }) => part)
    return { tokenCount, stopReason, text: text.join("") }
  }
  const [ending, shifting, keeping] = await Promise.all([
    run(),
    run("--context-shift"),
    run("--context-shift", "--keep", "-1"),
  ])
  expect(ending.stopReason).toBe("context-full")
  expect(Number(ending.tokenCount)).toBeLessThan(256)
  expect(shifting).toMatchObject({ tokenCount: 400, stopReason: "token-limit" })
  expect(keeping).toMatchObject({ tokenCount: 400, stopReason: "token-limit" })
  expect(shifting.text).toStartWith(ending.text)
  expect(keeping.text).toStartWith(ending.text)
  expect(keeping.text).not.toBe(shifting.text)
})

test("--context-shift and --keep forget what llama-completion does", async () => {
  const quiet = ["-no-cnv", "--no-display-prompt", "--no-perf", "--no-warmup", "-dev", "none"]
  for (const keep of ["0", "3", "-1", "1000"]) {
    const flags = ["-n", "700", "--ignore-eos", "--context-shift", "--keep", keep]
    const theirs = await runProcess([completion, "-m", model, ...given, ...quiet, ...flags])
    const ours = await runCli(["run", model, ...given, ...flags])
    expect(ours.stdout.trimEnd().length).toBeGreaterThan(700)
    // It loses zero bytes, which are the ends of texts in C.
    expect(ours.stdout.replaceAll("\0", "").trimEnd()).toBe(theirs.stdout.trimEnd())
  }
})

test("--prompt-cache spares the beginning that is the same", async () => {
  const cache = join(folder.path, "prompt.cache")
  const run = async (text: string, ...flags: ReadonlyArray<string>) => {
    const words = ["run", model, ...given, "-p", text, "--json", "--prompt-cache", cache]
    const { stdout, stderr, exitCode } = await runCli([...words, ...flags])
    expect([stderr, exitCode]).toEqual(["", 0])
    const events = jsonLines(stdout)
    const tokens = events.filter(({ event }) => event === "token").map(({ text: part }) => part)
    const { cachedTokenCount } = events.find(({ event }) => event === "stats")!
    return { text: tokens.join(""), cachedTokenCount: Number(cachedTokenCount) }
  }
  const first = await run(prompt, "--prompt-cache-ro")
  expect(first).toMatchObject({ cachedTokenCount: 0 })
  expect(existsSync(cache)).toBe(false)
  expect(await run(prompt)).toMatchObject({ cachedTokenCount: 0, text: first.text })
  const kept = readFileSync(cache)
  const again = await run(prompt, "--prompt-cache-ro")
  expect(again.text).toBe(first.text)
  expect(again.cachedTokenCount).toBeGreaterThan(5)
  expect(readFileSync(cache).equals(kept)).toBe(true)
  const longer = await run(`${prompt}${first.text} and more`)
  expect(longer.cachedTokenCount).toBeGreaterThan(again.cachedTokenCount)
  expect(statSync(cache).size).toBeGreaterThan(kept.length)
})

test("a file that is no such cache is told in words", async () => {
  const other = join(folder.path, "other.cache")
  writeFileSync(other, "once upon a time")
  const { stderr, exitCode } = await runCli(["run", model, ...given, "--prompt-cache", other])
  expect(exitCode).toBe(1)
  expect(stderr).toContain(`${other} cannot be restored`)
})

/** Numbers that a help page gives as defaults, by the flags' names. */
const defaultsIn = (page: string): ReadonlyMap<string, number> => {
  const entries = page.split(/\n {0,2}(?=-)/).map((entry) => entry.replace(/\s+/g, " "))
  return new Map(
    entries.flatMap((entry) => {
      const value = /\(default: (-?[\d.]+(?:e-\d+)?)[,) ]/.exec(entry)?.[1]
      const names = entry.split(/ (?=[^-])/)[0]!.match(/--[a-z-]+/g) ?? []
      return value === undefined ? [] : names.map((name) => [name, Number(value)] as const)
    }),
  )
}

test("the defaults that the help tells are llama-completion's", async () => {
  const theirs = defaultsIn((await runProcess([completion, "--help"])).stdout)
  const ours = [...defaultsIn((await runCli(["run", "--help"])).stdout)]
  const common = ours.filter(([name]) => theirs.has(name))
  expect(common.length).toBeGreaterThan(20)
  expect(common).toEqual(common.map(([name]) => [name, theirs.get(name)!]))
})
