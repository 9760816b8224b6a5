import { afterAll, describe, expect, test } from "bun:test"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { CommandLineError, readArgs } from "./argv.ts"
import { type Settings, settingsOf } from "./settings.ts"

const folder = mkdtempSync(join(tmpdir(), "ggml-rpc-settings-"))
mkdirSync(join(folder, "ggml-rpc"))
const defaultFile = join(folder, "ggml-rpc", "config.json")

afterAll(() => rmSync(folder, { recursive: true }))

interface Surroundings {
  readonly env?: Readonly<Record<string, string>>
  /** What the user's file of settings holds. */
  readonly file?: unknown
}

const settings = (line: string, { env = {}, file = {} }: Surroundings = {}): Settings => {
  writeFileSync(defaultFile, typeof file === "string" ? file : JSON.stringify(file))
  const read = readArgs(line.split(" "))
  if (read.kind !== "command") throw new Error(`${read.kind} instead of a command`)
  return settingsOf(read, { XDG_CONFIG_HOME: folder, ...env })
}

const valuesOf = (line: string, surroundings?: Surroundings) => settings(line, surroundings).values

const messageOf = (line: string, surroundings?: Surroundings): string => {
  try {
    settings(line, surroundings)
  } catch (error) {
    if (error instanceof CommandLineError) return error.message
    throw error
  }
  throw new Error(`${line} was accepted`)
}

describe("what is given where", () => {
  const env = { LLAMA_ARG_CTX_SIZE: "2048", LLAMA_ARG_BATCH: "32" }
  const file = { "ctx-size": 1024, "batch-size": 16, "ubatch-size": 8 }

  test("the command line is stronger than a variable, that than a file, that than a default", () => {
    expect(valuesOf("run m.gguf -c 4096", { env, file })).toMatchObject({
      contextSize: 4096,
      batchSize: 32,
      ubatchSize: 8,
      escape: true,
      json: false,
      files: ["m.gguf"],
    })
    expect(valuesOf("run m.gguf", { env, file })).toMatchObject({ contextSize: 2048 })
    expect(valuesOf("run m.gguf", { file })).toMatchObject({ contextSize: 1024 })
    expect(valuesOf("run m.gguf").contextSize).toBeUndefined()
    expect(valuesOf("verify m.gguf")).toMatchObject({ tolerance: 1e-4 })
  })

  test("a wrong value is told by its source's name", () => {
    expect(messageOf("run -c x", { env, file })).toStartWith("--ctx-size takes a whole number")
    expect(messageOf("run m.gguf", { env: { LLAMA_ARG_CTX_SIZE: "x" } })).toStartWith(
      "LLAMA_ARG_CTX_SIZE takes a whole number",
    )
    expect(messageOf("run m.gguf", { file: { "ctx-size": "x" } })).toStartWith(
      `"ctx-size" in ${defaultFile} takes a whole number`,
    )
  })

  test("a model on the command line makes others void, of whatever kind they are", () => {
    const elsewhere = { env: { LLAMA_ARG_HF_REPO: "a/b", LLAMA_ARG_MODEL: "c.gguf" } }
    expect(valuesOf("run", elsewhere)).toMatchObject({ hfRepo: "a/b", model: "c.gguf" })
    expect(valuesOf("run m.gguf", elsewhere)).toMatchObject({
      hfRepo: undefined,
      model: undefined,
      files: ["m.gguf"],
    })
    expect(valuesOf("run -mu http://a/b", elsewhere)).toMatchObject({
      hfRepo: undefined,
      model: undefined,
      modelUrl: "http://a/b",
    })
    expect(valuesOf("run", { env: { LLAMA_ARG_MODEL: "c" }, file: { model: "d" } })).toMatchObject({
      model: "c",
    })
  })
})

describe("variables", () => {
  test("are llama.cpp's; an empty one is none", () => {
    expect(valuesOf("devices", { env: { LLAMA_ARG_RPC: "a:1,b:2" } })).toMatchObject({
      rpc: "a:1,b:2",
    })
    expect(valuesOf("devices", { env: { LLAMA_ARG_RPC: "" } }).rpc).toBeUndefined()
  })

  test("of switches say on or off", () => {
    expect(valuesOf("run", { env: { LLAMA_ARG_OFFLINE: "1" } })).toMatchObject({ offline: true })
    expect(valuesOf("run", { env: { LLAMA_ARG_OFFLINE: "off" } })).toMatchObject({ offline: false })
    expect(messageOf("run", { env: { LLAMA_ARG_OFFLINE: "maybe" } })).toBe(
      "LLAMA_ARG_OFFLINE takes on or off, not 'maybe'",
    )
  })

  test("of no flag are told, but not to commands that heed none", () => {
    const env = { LLAMA_ARG_MMPROJ: "x" }
    expect(settings("run", { env }).notes).toEqual([
      "LLAMA_ARG_MMPROJ changes nothing: there is no such flag here",
    ])
    expect(settings("ls", { env }).notes).toEqual([])
    expect(settings("devices", { env: { LLAMA_ARG_CTX_SIZE: "1" } }).notes).toEqual([])
  })

  test("of llama-server do not move a server of devices", () => {
    expect(valuesOf("serve", { env: { LLAMA_ARG_PORT: "1", LLAMA_ARG_HOST: "x" } })).toMatchObject({
      port: undefined,
      host: undefined,
    })
  })
})

describe("the file of settings", () => {
  test("is for all commands, or for one", () => {
    const file = { rpc: ["a:1", "b:2"], temp: 0.5, run: { temp: 0.1 }, serve: { port: 1 } }
    expect(valuesOf("run", { file })).toMatchObject({ rpc: "a:1,b:2", temp: 0.1 })
    expect(valuesOf("serve", { file })).toMatchObject({ port: 1 })
    expect(valuesOf("devices", { file })).toMatchObject({ rpc: "a:1,b:2" })
  })

  test("has lists, and true and false", () => {
    const file = { device: ["A", "B"], escape: false, "dry-sequence-breaker": ["x,y", "z"] }
    expect(valuesOf("run", { file })).toMatchObject({
      device: ["A", "B"],
      escape: false,
      drySequenceBreakers: ["x,y", "z"],
    })
  })

  test("may be another one, which then has to be there", () => {
    const other = join(folder, "other.json")
    writeFileSync(other, '{"ctx-size": 77}')
    expect(valuesOf(`run --config ${other}`, { file: { "ctx-size": 1 } })).toMatchObject({
      contextSize: 77,
    })
    expect(messageOf(`run --config ${join(folder, "none.json")}`)).toContain("cannot be read")
    expect(valuesOf("run", { env: { XDG_CONFIG_HOME: "/dev/null" } }).config).toBeUndefined()
  })

  test.each<[unknown, string]>([
    ["{", "are not JSON"],
    ["[]", "are not a JSON object"],
    [{ "ctx-sise": 1 }, "have 'ctx-sise', which is no flag's long name; did you mean 'ctx-size'?"],
    [{ c: 1 }, "have 'c', which is no flag's long name"],
    [{ serve: { "ctx-size": 1 } }, "have 'ctx-size', which is no flag's long name"],
    [{ run: 1 }, "have 'run', which is no flag's long name"],
    [{ temp: null }, `"temp" in ${defaultFile} takes a text, a number, true or false, not null`],
    [{ device: [] }, `"device" in ${defaultFile} is an empty list`],
  ])("%j is refused", (file, message) => {
    expect(messageOf("run", { file })).toContain(message)
    expect(messageOf("run", { file })).toContain(defaultFile)
  })
})

describe("flags of llama.cpp that change nothing", () => {
  test("are read past, with a word where one might wait for their effect", () => {
    const { values, notes } = settings("run m.gguf -no-cnv -tb 4 --fit on --mmap -p hi")
    expect(values).toMatchObject({ prompt: "hi", mmap: true, files: ["m.gguf"] })
    expect(notes).toEqual([
      "--threads-batch changes nothing: prompts take as many threads as tokens: --threads",
    ])
  })

  test("but not with a value that asks for something else", () => {
    expect(messageOf("run m.gguf --fit off")).toContain("--fit off is not what")
    expect(messageOf("run m.gguf", { env: { LLAMA_ARG_FIT: "off" } })).toContain(
      "LLAMA_ARG_FIT off is not what",
    )
  })
})

test("flags of speculation that llama.cpp has no more say what came for them", () => {
  expect(messageOf("run m.gguf --draft-max 8")).toContain("--spec-draft-n-max is")
  expect(messageOf("api m.gguf", { env: { LLAMA_ARG_DRAFT_MIN: "2" } })).toContain(
    "--spec-draft-n-min is",
  )
  expect(
    valuesOf("chat m.gguf --spec-type ngram-simple --spec-type draft-simple -md d.gguf"),
  ).toMatchObject({
    specType: ["ngram-simple", "draft-simple"],
    specDraftModel: "d.gguf",
    specDraftNMax: 3,
  })
  expect(messageOf("run m.gguf --spec-type draft-eagle3")).toContain("not 'draft-eagle3'")
})
