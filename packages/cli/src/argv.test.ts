import { describe, expect, test } from "bun:test"
import { type CommandLine, CommandLineError, readArgs } from "./argv.ts"

const given = (...line: ReadonlyArray<string>): Readonly<Record<string, unknown>> => {
  const read: CommandLine = readArgs(line)
  if (read.kind !== "command") throw new Error(`${read.kind} instead of a command`)
  return { ...Object.fromEntries(read.given), words: read.words }
}

const messageOf = (...line: ReadonlyArray<string>): string => {
  try {
    readArgs(line)
  } catch (error) {
    if (error instanceof CommandLineError) return error.message
    throw error
  }
  throw new Error(`${line.join(" ")} was accepted`)
}

describe("readArgs", () => {
  test("takes llama-cli's flags, before and behind the model", () => {
    expect(given("run", "-ngl", "99", "m.gguf", "-ub", "64", "-ctk", "q8_0", "-n", "-1")).toEqual({
      "gpu-layers": ["99"],
      "ubatch-size": ["64"],
      "cache-type-k": ["q8_0"],
      predict: ["-1"],
      words: ["m.gguf"],
    })
  })

  test("takes the same letters for what the command means by them", () => {
    expect(given("serve", "-p", "0", "-c", "-H", "::1", "-t", "3", "-d", "CPU")).toEqual({
      port: ["0"],
      cache: ["on"],
      host: ["::1"],
      threads: ["3"],
      device: ["CPU"],
      words: [],
    })
    expect(given("run", "-p", "0", "-c", "512")).toEqual({
      prompt: ["0"],
      "ctx-size": ["512"],
      words: [],
    })
  })

  test.each([
    [["-fa"], "on"],
    [["-fa", "off"], "off"],
    [["-fa", "auto"], "auto"],
    [["--flash-attn=1"], "1"],
    [["-fa", "-1"], "-1"],
  ])("%p is Flash Attention %s", (words, value) => {
    expect(given("run", ...words, "-n", "1")["flash-attn"]).toEqual([value])
    expect(given("run", ...words, "m.gguf")).toEqual({ "flash-attn": [value], words: ["m.gguf"] })
  })

  test("a switch and its negation: the last one counts", () => {
    expect(given("run", "-e", "--no-escape").escape).toEqual(["off"])
    expect(given("run", "--no-escape", "-p", "escape", "-e").escape).toEqual(["on"])
    expect(given("run", "--no-escape", "-p", "escape").escape).toEqual(["off"])
  })

  test.each([
    [["-p", "- a=b"], "- a=b"],
    [["-p", "-t: x"], "-t: x"],
    [["--prompt=-n=1"], "-n=1"],
    [["--prompt=--rpc"], "--rpc"],
    [["-p", ""], ""],
    [["-p", '"quoted"'], '"quoted"'],
    [["-p", "1e3"], "1e3"],
    [["-p", "two\nlines"], "two\nlines"],
  ])("%p is a prompt as it stands", (words, prompt) => {
    expect(given("run", ...words)).toEqual({ prompt: [prompt], words: [] })
  })

  test("a switch takes no word, and behind -- there is none", () => {
    expect(given("run", "--json", "true")).toEqual({ json: ["on"], words: ["true"] })
    expect(given("run", "--", "-odd.gguf")).toEqual({ words: ["-odd.gguf"] })
    expect(given("run", "-f", "-")).toEqual({ file: ["-"], words: [] })
  })

  test("a flag that is given again is there twice", () => {
    expect(given("plan", "-c", "1", "--ctx-size", "2", "--rpc", "a:1", "--rpc=b:2")).toEqual({
      "ctx-size": ["1", "2"],
      rpc: ["a:1", "b:2"],
      words: [],
    })
  })

  test("help and version", () => {
    expect(readArgs([])).toEqual({ kind: "help" })
    expect(readArgs(["-h"])).toEqual({ kind: "help" })
    expect(readArgs(["help", "serve"])).toEqual({ kind: "help", command: "serve" })
    expect(readArgs(["run", "m.gguf", "-h"])).toEqual({ kind: "help", command: "run" })
    expect(readArgs(["serve", "-p", "1", "--help"])).toEqual({ kind: "help", command: "serve" })
    expect(readArgs(["--version"])).toEqual({ kind: "version" })
    expect(readArgs(["run", "m.gguf", "--version"])).toEqual({ kind: "version" })
  })

  test("mistakes name the flag and what may have been meant", () => {
    expect(messageOf("rum")).toBe("there is no command 'rum'; did you mean 'run'?")
    expect(messageOf("frobnicate")).toContain(
      "run, chat, api, embed, bench, serve, devices, status, plan, verify, pull, ls, rm, cache, service, demo",
    )
    expect(messageOf("--rpc", "a:1")).toContain("a command must come before '--rpc'")
    expect(messageOf("run", "--tensor-spilt", "1")).toBe(
      "run has no flag --tensor-spilt; did you mean --tensor-split?",
    )
    expect(messageOf("run", "--tensor-spilt=1")).toContain("no flag --tensor-spilt;")
    expect(messageOf("run", "-nlg", "1")).toBe("run has no flag -nlg; did you mean -ngl?")
    expect(messageOf("run", "--xyzzy")).toBe("run has no flag --xyzzy")
    expect(messageOf("run", "--constructor")).toBe("run has no flag --constructor")
    expect(messageOf("run", "-p")).toBe("-p needs a value: -p TEXT")
    expect(messageOf("run", "-p", "--rpc", "a:1")).toBe(
      "-p needs a value, but '--rpc' follows; --prompt=--rpc would take it as one",
    )
    expect(messageOf("run", "--json=1")).toBe("--json takes no value")
    expect(messageOf("run", "m.gguf", "Once", "upon")).toBe(
      "'Once' is one word too many: the model is 'm.gguf'. A prompt needs -p, and quotes when it has spaces",
    )
    expect(messageOf("serve", "m.gguf")).toBe("'m.gguf' is one word too many")
    expect(messageOf("serve", "-no-cnv")).toBe("serve has no flag -no-cnv")
  })
})
