import { describe, expect, test } from "bun:test"
import { kvTypes } from "@ggml-rpc/native"
import { acceptedFlags } from "./acceptedFlags.ts"
import { CommandLineError, closest, editDistance, readArgs } from "./argv.ts"
import { type CommandSpec, commands, kvTypeNames } from "./flags.ts"

const argsOf = (line: ReadonlyArray<string>): ReadonlyArray<string> => {
  const request = readArgs(line)
  if (request.kind !== "command") throw new Error(`${request.kind} instead of a command`)
  return request.args
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

describe("flags of llama.cpp that change nothing", () => {
  test("are read past, with a word where one might wait for their effect", () => {
    const line = ["run", "m.gguf", "-no-cnv", "-tb", "4", "-sm", "layer", "--mmap", "-p", "hi"]
    expect(readArgs(line)).toEqual({
      kind: "command",
      args: ["run", "--prompt", "hi", "--", "m.gguf"],
      notes: ["-tb changes nothing: prompts take as many threads as tokens: --threads"],
    })
  })

  test("but not with another value, or on another command", () => {
    expect(messageOf("run", "m.gguf", "-sm", "row")).toContain("-sm row is not what")
    expect(messageOf("run", "m.gguf", "-sm")).toContain("-sm needs a value")
    expect(messageOf("serve", "-no-cnv")).toContain("serve has no flag -no-cnv")
  })

  test("none of them is one of the command's own", () => {
    for (const [name, accepted] of Object.entries(acceptedFlags)) {
      const own = Object.values((commands as Record<string, CommandSpec>)[name]!.flags)
      const names = own.flatMap((flag) => [`--${flag.name}`, ...flag.aliases])
      const both = accepted.flatMap(({ names: spellings }) => spellings)
      expect(both.filter((spelling) => names.includes(spelling))).toEqual([])
    }
  })
})

describe("readArgs", () => {
  test("spells llama-cli's flags out, before and behind the model", () => {
    expect(
      argsOf([
        "run",
        "-ngl",
        "99",
        "m.gguf",
        "-ub",
        "64",
        "-ts",
        "1,2",
        "-ctk",
        "q8_0",
        "-n",
        "-1",
      ]),
    ).toEqual([
      "run",
      ...["--gpu-layers", "99", "--ubatch-size", "64", "--tensor-split", "1,2"],
      ...["--cache-type-k", "q8_0", "--predict", "-1", "--", "m.gguf"],
    ])
  })

  test("takes the same letters for what the command means by them", () => {
    expect(argsOf(["serve", "-p", "0", "-c", "-H", "::1", "-t", "3", "-d", "CPU"])).toEqual([
      "serve",
      ...["--cache", "--port", "0", "--host", "::1", "--threads", "3", "--device", "CPU", "--"],
    ])
    expect(argsOf(["run", "-p", "0", "-c", "512"])).toEqual([
      "run",
      ...["--prompt", "0", "--ctx-size", "512", "--"],
    ])
  })

  test.each([
    [["-fa"], "on"],
    [["-fa", "off"], "off"],
    [["-fa", "auto"], "auto"],
    [["--flash-attn=1"], "1"],
  ])("%p is Flash Attention %s", (words, value) => {
    expect(argsOf(["run", ...words, "-n", "1"])).toContain(value)
    expect(argsOf(["run", ...words, "m.gguf"]).at(-1)).toBe("m.gguf")
  })

  test("values may start with a dash, hold an equals sign, be empty, or look like a switch's value", () => {
    expect(argsOf(["run", "-p", "- a=b"])).toEqual(["run", "--prompt", "- a=b", "--"])
    expect(argsOf(["run", "--prompt=-n=1"])).toEqual(["run", "--prompt", "-n=1", "--"])
    expect(argsOf(["run", "-p", ""])).toEqual(["run", "--prompt", "", "--"])
    // @effect/cli would take the 'yes' for the switch's value.
    expect(argsOf(["run", "--json", "yes"])).toEqual(["run", "--json", "--", "yes"])
    expect(argsOf(["run", "-p", "yes", "--json"])).toEqual([
      "run",
      ...["--json", "--prompt", "yes", "--"],
    ])
    expect(argsOf(["run", "--", "-odd.gguf"])).toEqual(["run", "--", "-odd.gguf"])
    expect(argsOf(["run", "-f", "-"])).toEqual(["run", "--file", "-", "--"])
  })

  test("the last one counts, but servers add up", () => {
    expect(argsOf(["plan", "-c", "1", "--ctx-size", "2", "--rpc", "a:1", "--rpc=b:2"])).toEqual([
      "plan",
      ...["--ctx-size", "2", "--rpc", "a:1,b:2", "--"],
    ])
  })

  test("help, version and completions", () => {
    expect(readArgs([])).toEqual({ kind: "help" })
    expect(readArgs(["-h"])).toEqual({ kind: "help" })
    expect(readArgs(["help", "serve"])).toEqual({ kind: "help", command: "serve" })
    expect(readArgs(["run", "m.gguf", "-h"])).toEqual({ kind: "help", command: "run" })
    expect(readArgs(["serve", "-p", "1", "--help"])).toEqual({ kind: "help", command: "serve" })
    expect(readArgs(["--version"])).toEqual({ kind: "version" })
    expect(readArgs(["--completions", "bash"])).toEqual({
      kind: "command",
      args: ["--completions", "bash"],
      notes: [],
    })
  })

  test("mistakes name the flag and what may have been meant", () => {
    expect(messageOf("rum")).toBe("there is no command 'rum'; did you mean 'run'?")
    expect(messageOf("frobnicate")).toContain(
      "run, serve, devices, status, plan, verify, pull, ls, rm, cache, service, demo",
    )
    expect(messageOf("--rpc", "a:1")).toContain("a command must come before '--rpc'")
    expect(messageOf("run", "--tensor-spilt", "1")).toBe(
      "run has no flag --tensor-spilt; did you mean --tensor-split?",
    )
    expect(messageOf("run", "-nlg", "1")).toBe("run has no flag -nlg; did you mean -ngl?")
    expect(messageOf("run", "--xyzzy")).toBe("run has no flag --xyzzy")
    expect(messageOf("run", "-p")).toBe("-p needs a value: -p TEXT")
    expect(messageOf("run", "-p", "--rpc", "a:1")).toContain("--prompt=--rpc would take it as one")
    expect(messageOf("run", "--json=1")).toBe("--json takes no value")
    expect(messageOf("run", "m.gguf", "Once", "upon")).toContain("A prompt needs -p")
    expect(messageOf("serve", "m.gguf")).toContain("'m.gguf' is one word too many")
  })
})

test("no command spells two flags alike", () => {
  for (const [command, spec] of Object.entries(commands) as Array<[string, CommandSpec]>) {
    const names = Object.values(spec.flags).flatMap((flag) => [`--${flag.name}`, ...flag.aliases])
    expect([command, new Set(names).size]).toEqual([command, names.length])
  }
})

test("the types of the KV cache are those that libllama takes", () => {
  expect([...kvTypeNames].sort()).toEqual(Object.keys(kvTypes).sort() as Array<never>)
})

describe("flag values", () => {
  const { run, serve, verify } = commands
  const rejected = (parse: (text: string) => unknown, text: string): string => {
    try {
      parse(text)
    } catch (error) {
      return (error as Error).message
    }
    throw new Error(`${text} was accepted`)
  }

  test("numbers are checked and named", () => {
    expect(run.flags.contextSize.parse("4096")).toBe(4096)
    expect(run.flags.predict.parse("-1")).toBe(-1)
    expect(run.flags.seed.parse("4294967295")).toBe(4294967295)
    for (const text of ["", " ", "x", "1.5", "-1", "1e99", "0x"]) {
      expect(rejected(run.flags.contextSize.parse, text)).toContain("--ctx-size takes a whole")
    }
    expect(rejected(serve.flags.port.parse, "65536")).toBe(
      "--port takes a whole number from 0 to 65535, not '65536'",
    )
    expect(rejected(run.flags.repeatPenalty.parse, "0")).toContain("--repeat-penalty")
  })

  test("paths and hosts are not empty, a prompt may be", () => {
    expect(rejected(serve.flags.host.parse, "")).toBe("--host takes a HOST, not ''")
    expect(rejected(run.flags.model.parse, " ")).toContain("--model takes a FILE")
    expect(run.flags.prompt.parse("")).toBe("")
  })

  test("words and lists", () => {
    expect(run.flags.flashAttention.parse("TRUE")).toBe("on")
    expect(run.flags.flashAttention.parse("0")).toBe("off")
    expect(rejected(run.flags.flashAttention.parse, "maybe")).toBe(
      "--flash-attn takes on, off or auto, not 'maybe'",
    )
    expect(rejected(run.flags.typeK.parse, "q3")).toContain("q5_0 or q5_1")
    expect(run.flags.gpuLayers.parse("auto")).toBeUndefined()
    expect(run.flags.gpuLayers.parse("-1")).toBeUndefined()
    expect(run.flags.gpuLayers.parse("all")).toBeGreaterThan(1000)
    expect(run.flags.tensorSplit.parse("3,1/2")).toEqual([3, 1, 2])
    expect(rejected(run.flags.tensorSplit.parse, "3,,1")).toContain("--tensor-split")
    expect(rejected(run.flags.tensorSplit.parse, "3,-1")).toContain("--tensor-split")
    expect(run.flags.device.parse("CUDA0,CUDA1")).toEqual(["CUDA0", "CUDA1"])
    expect(run.flags.device.parse("CUDA0/CUDA1")).toEqual(["CUDA0", "CUDA1"])
    expect(rejected(serve.flags.device.parse, "CPU,")).toContain("--device")
    expect(serve.flags.allow.parse("10.0.0.0/8,::1")).toEqual(["10.0.0.0/8", "::1"])
    expect(verify.flags.tokens.parse("1, 2 3")).toEqual([1, 2, 3])
    expect(rejected(verify.flags.tokens.parse, "1,2.5")).toContain("--tokens")
  })
})

test("editDistance counts slips, a swap as one", () => {
  expect(editDistance("", "abc")).toBe(3)
  expect(editDistance("kitten", "sitting")).toBe(3)
  expect(editDistance("split", "spilt")).toBe(1)
  expect(editDistance("ca", "abc")).toBe(3)
})

test("closest suggests what is near, nothing far-fetched", () => {
  const known = ["--rpc", "--prompt", "--predict", "-p"]
  expect(closest("--promt", known)).toBe("--prompt")
  expect(closest("--pred", known)).toBe("--predict")
  expect(closest("--verbose", known)).toBeUndefined()
  expect(closest("-", known)).toBeUndefined()
})
