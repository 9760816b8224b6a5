/** What a user gets wrong: one clear paragraph, the right exit code, no stack. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { readFileSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { writeGguf } from "@ggml-rpc/gguf"
import { Command } from "@ggml-rpc/protocol"
import { demoModel, writeDemoModel } from "ggml-rpc/demo-model"
import { writeEncoderModels } from "../models/encoders.ts"
import type { FinishedProcess } from "../peers/process.ts"
import { type OurServer, startOurServer } from "../servers.ts"
import { runCli, temporaryFolder } from "./program.ts"
import { startProxy } from "./proxy.ts"

setDefaultTimeout(60_000)

const folder = temporaryFolder()
const file = (name: string): string => join(folder.path, name)
const model = file("demo.gguf")
let server: OurServer

beforeAll(async () => {
  writeDemoModel(model)
  server = await startOurServer()
})

afterAll(async () => {
  await server?.stop()
  folder[Symbol.dispose]()
})

/** The one paragraph that a failed call prints, with nothing else on either stream. */
const errorOf = (result: FinishedProcess, exitCode: number): string => {
  expect(result.stdout).toBe("")
  const paragraph = result.stderr.trimEnd()
  expect(paragraph).toStartWith("error: ")
  expect(paragraph).not.toContain("\n\n")
  expect(paragraph).not.toMatch(/\n\s+at |FiberFailure|\{"_tag"/)
  expect(result.exitCode).toBe(exitCode)
  return paragraph
}

const failure = async (...args: ReadonlyArray<string>): Promise<string> =>
  errorOf(await runCli(args), 1)

const usageError = async (...args: ReadonlyArray<string>): Promise<string> =>
  errorOf(await runCli(args), 2)

const run = (path: string, ...more: ReadonlyArray<string>) => ["run", path, "-p", "a", ...more]

test("a prompt that the context does not hold is refused before any weight is sent", async () => {
  await using watched = await startOurServer({ env: { GGML_RPC_DEBUG: "1" } })
  const prompt = file("long.txt")
  writeFileSync(prompt, "word ".repeat(400))
  const rpc = ["--rpc", watched.endpoint, "-c", "256"]
  const { stderr, exitCode } = await runCli(["run", model, "-f", prompt, ...rpc])
  expect(stderr).toMatch(
    /error: The prompt has \d+ tokens, but the context planned for .* holds 256/,
  )
  expect(exitCode).toBe(1)
  expect(watched.stderr()).toContain("[GET_DEVICE_MEMORY]")
  expect(watched.stderr()).not.toContain("[SET_TENSOR")
})

test("a prompt that an encoder does not take at once is, too", async () => {
  const { t5 } = writeEncoderModels(folder.path)
  const words = ["run", t5, "-p", "token12 ".repeat(5), "-dev", "none", "-ub", "16"]
  const { stderr, stdout, exitCode } = await runCli(words)
  expect(stderr).toMatch(
    /error: The prompt has \d+ tokens, which \S+ looks at all at once, and its batch holds 16/,
  )
  expect(stderr).not.toContain("loaded in")
  expect({ stdout, exitCode }).toEqual({ stdout: "", exitCode: 1 })
})

describe("the model", () => {
  test("is not there", async () => {
    expect(await failure(...run(file("nothing.gguf")))).toContain(file("nothing.gguf"))
  })

  test("is no GGUF", async () => {
    const path = file("text.gguf")
    writeFileSync(path, "once upon a time, a text")
    expect(await failure(...run(path))).toContain(`${path} is not a GGUF file`)
  })

  test("is a folder", async () => {
    expect(await failure(...run(folder.path))).toContain("is a directory")
  })

  test.each([
    ["in its header", 2000],
    ["in its weights", 1_000_000],
  ])("is truncated %s", async (where, sizeBytes) => {
    const path = file(`truncated-${where.replaceAll(" ", "-")}.gguf`)
    writeDemoModel(path)
    truncateSync(path, sizeBytes)
    const message = await failure(...run(path, "--rpc", server.endpoint))
    expect(message).toContain(path)
    expect(message).toMatch(/truncated|ends/)
  })

  test("has no tokenizer", async () => {
    const path = file("no-tokenizer.gguf")
    const demo = demoModel()
    writeGguf(path, {
      ...demo,
      metadata: [
        ...demo.metadata.filter(([key]) => !key.startsWith("tokenizer.")),
        ["tokenizer.ggml.model", { type: "string", value: "no_vocab" }],
      ],
    })
    const message = await failure(...run(path))
    expect(message).toContain("has no tokenizer")
    expect(message).toContain(`ggml-rpc verify --tokens 1,2,3 ${path}`)
  })

  test.each([
    ["a vision projector", { "general.architecture": "clip" }, "projector (mmproj)"],
    ["a LoRA", { "general.type": "adapter" }, "adapter (LoRA)"],
    ["an importance matrix", { "general.type": "imatrix" }, "an importance matrix"],
    ["of an unknown architecture", { "general.architecture": "llama99" }, "a newer release"],
    ["with an unknown tokenizer", { "tokenizer.ggml.pre": "new-bpe" }, "a newer release"],
  ])("is %s", async (name, changes, reason) => {
    const path = file(`${name.replaceAll(" ", "-")}.gguf`)
    const demo = demoModel()
    const changed = new Map([
      ...demo.metadata,
      ...Object.entries(changes).map(([key, value]) => [key, { type: "string", value }] as const),
      ["tokenizer.ggml.model", { type: "string", value: "gpt2" }],
      ["tokenizer.ggml.merges", { type: "array", elementType: "string", values: [] }],
    ] as typeof demo.metadata)
    writeGguf(path, { ...demo, metadata: [...changed] })
    for (const words of [run(path), ["plan", path], ["plan", model, "-md", path]]) {
      const message = await failure(...words, "--rpc", server.endpoint)
      expect(message).toContain(path)
      expect(message).toContain(reason)
    }
  })

  test("has an unknown tokenizer and a large vocabulary, which plans are made without", async () => {
    const path = file("unknown-tokenizer.gguf")
    const demo = demoModel()
    const changed = new Map(demo.metadata)
    changed.set("tokenizer.ggml.model", { type: "string", value: "new-bpe" })
    const tokens = Array.from({ length: 2000 }, (_, index) => `word${index}`)
    changed.set("tokenizer.ggml.tokens", { type: "array", elementType: "string", values: tokens })
    writeGguf(path, { ...demo, metadata: [...changed] })
    for (const words of [run(path), ["plan", path]]) {
      const message = await failure(...words, "--rpc", server.endpoint)
      expect(message).toContain(path)
      expect(message).toContain("a newer release")
    }
  })

  test.each([
    ["llama.block_count", { type: "uint32", value: 0 }],
    ["llama.block_count", { type: "uint32", value: 1000 }],
    ["llama.attention.layer_norm_rms_epsilon", { type: "float32", value: -1 }],
  ] as const)("says the impossible of %s: %o", async (key, value) => {
    const path = file("impossible.gguf")
    const demo = demoModel()
    writeGguf(path, { ...demo, metadata: [...new Map(demo.metadata).set(key, value)] })
    const message = await failure(...run(path))
    expect(message).toContain(`its header says that ${key} is ${value.value}`)
  })

  test("has a vocabulary on which llama.cpp ends its process", async () => {
    const path = file("twice.gguf")
    writeDemoModel(path)
    const bytes = readFileSync(path)
    const [first, second] = ["<0x41>", "<0x42>"].map((text) => bytes.indexOf(text))
    expect(Math.min(first!, second!)).toBeGreaterThan(0)
    bytes.copy(bytes, second!, first!, first! + 6)
    writeFileSync(path, bytes)
    const message = await failure(...run(path))
    expect(message).toContain(`llama.cpp gave up on the model ${path}`)
    expect(message).toContain("download it again")
  })

  test("does not fit with the wanted context: what is missing, and what would fit", async () => {
    const message = await failure(...run(model, "--rpc", server.endpoint, "-c", "900000000"))
    expect(message).toMatch(/does not fit: \d+\.\d+ GiB of memory are missing/)
    // The server runs here.
    expect(message).toMatch(
      /RPC0 and this host share one memory, which lacks \d+\.\d+ GiB of \d+\.\d+ GiB/,
    )
    expect(Number(/--ctx-size (\d+)\) would fit/.exec(message)?.[1])).toBeGreaterThan(4096)
  })

  test("does not fit on a server with little memory, and cannot go elsewhere", async () => {
    using small = startProxy(server.port, {
      onResponse: (command, payload) => {
        if (command === Command.GET_DEVICE_MEMORY) {
          new DataView(payload.buffer, payload.byteOffset).setBigUint64(0, 68n << 20n, true)
        }
      },
    })
    const message = await failure(...run(model, "--rpc", small.endpoint, "-ngl", "all", "-c", "0"))
    // 64 MiB stay free by rule; the model takes more than the 4 that are left.
    expect(message).toMatch(/RPC0 lacks \d+ MiB of \d+ MiB/)
    expect(message).toMatch(/--ctx-size \d+|--gpu-layers \d+/)
  })
})

describe("the server", () => {
  test("is not there", async () => {
    const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } })
    const { port } = listener
    listener.stop(true)
    const message = await failure(...run(model, "--rpc", `127.0.0.1:${port}`))
    expect(message).toContain(`Cannot connect to 127.0.0.1:${port}`)
    expect(message).toContain("ggml-rpc serve")
  })

  test("accepts and never answers", async () => {
    const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } })
    try {
      const message = await failure(...run(model, "--rpc", `127.0.0.1:${listener.port}`))
      expect(message).toContain(`127.0.0.1:${listener.port}`)
      expect(message).toContain("did not answer")
    } finally {
      listener.stop(true)
    }
  })

  test("is a web server", async () => {
    const web = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response("hello") })
    try {
      const message = await failure(...run(model, "--rpc", `127.0.0.1:${web.port}`))
      expect(message).toContain("is not a ggml RPC server")
    } finally {
      await web.stop(true)
    }
  })

  test.each([
    [[6, 0, 3], "6.0.3"],
    [[7, 1, 0], "7.1.0"],
    [[8, 0, 2], "8.0.2"],
  ])("speaks another version: %p", async (version, text) => {
    using other = startProxy(server.port, {
      onResponse: (command, payload) => {
        if (command === Command.HELLO) payload.set(version)
      },
    })
    const message = await failure(...run(model, "--rpc", other.endpoint))
    expect(message).toContain(other.endpoint)
    expect(message).toContain(`speaks protocol ${text}`)
  })

  test("has no port, or one that is none", async () => {
    expect(await usageError(...run(model, "--rpc", "localhost"))).toContain("the port is missing")
    expect(await usageError(...run(model, "--rpc", "a:1,b:99999"))).toContain("'99999'")
    expect(await usageError(...run(model, "--rpc", "fd00::5"))).toContain("brackets")
    expect(await usageError(...run(model, "--rpc", ","))).toContain("--rpc names no server")
  })
})

describe("the flags", () => {
  test("a split of the wrong length", async () => {
    const message = await failure(...run(model, "--rpc", server.endpoint, "-ts", "1,2,3"))
    expect(message).toContain("--tensor-split has 3 values")
    expect(message).toContain("RPC0")
  })

  test("a device that is not there", async () => {
    const message = await failure(...run(model, "-dev", "CUDA77"))
    expect(message).toContain("'CUDA77'")
    expect(message).toContain("CPU")
  })

  test("no prompt, or two", async () => {
    expect(await usageError("run", model)).toContain("no prompt is given")
    expect(await usageError(...run(model, "-f", "x.txt"))).toContain("-p and -f")
    expect(await failure("run", model, "-f", file("none.txt"))).toContain("there is no such file")
  })

  test("no model, or two", async () => {
    expect(await usageError("run", "-p", "a")).toContain("no model is given")
    expect(await usageError("run", "-m", model, model, "-p", "a")).toContain("two models")
    expect(await usageError("verify")).toContain("no model is given")
  })

  test("words that mean nothing", async () => {
    expect(await usageError("rnu")).toContain("did you mean 'run'?")
    expect(await usageError("run", "--tensor-splitt", "1")).toContain("--tensor-split")
    const value = await usageError(...run(model, "-c", "many"))
    expect(value).toContain("--ctx-size takes a whole number")
    expect(value).toContain("ggml-rpc run --help")
  })

  test("--json tells the error on stdout too", async () => {
    const result = await runCli([...run(file("nothing.gguf")), "--json"])
    expect(result.exitCode).toBe(1)
    expect(JSON.parse(result.stdout)).toMatchObject({ event: "error", error: "GgufError" })
    expect(result.stderr).toStartWith("error: ")
  })

  test.each([
    ["an unknown flag", ["run", "--json", "--no-such-flag", "x.gguf"], "no flag --no-such-flag"],
    ["a wrong value", ["plan", "x.gguf", "--json", "-c", "many"], "--ctx-size"],
    ["a server without a port", ["devices", "--json", "--rpc", "host"], "host"],
    ["no model", ["verify", "--json"], "model"],
  ])("--json tells %s as an event, too", async (_, words, text) => {
    const { stdout, stderr, exitCode } = await runCli(words)
    expect(JSON.parse(stdout)).toMatchObject({
      ...{ event: "error", message: expect.stringContaining(text) },
    })
    expect(stderr).toStartWith("error: ")
    expect(exitCode).toBe(2)
  })

  test.each(["0", "", "no"])("GGML_RPC_DEBUG=%p adds nothing", async (value) => {
    const words = ["run", model, "-p", "a", "-n", "1", "-dev", "none"]
    const { stderr } = await runCli(words, { env: { GGML_RPC_DEBUG: value } })
    expect(stderr).not.toMatch(/llama_model_load|ggml_|print_info/)
  })

  test("GGML_RPC_DEBUG=1 adds where it came from", async () => {
    const result = await runCli(run(file("nothing.gguf")), { env: { GGML_RPC_DEBUG: "1" } })
    expect(result.exitCode).toBe(1)
    expect(result.stderr).toMatch(/\n\s+at /)
  })
})

describe("serve", () => {
  test("on a port that is taken", async () => {
    const message = await failure("serve", "-p", String(server.port))
    expect(message).toContain(`127.0.0.1:${server.port} is in use`)
    expect(message).toContain("--port")
  })

  test("on an address of another machine", async () => {
    // 192.0.2.0/24 is for documentation: nobody has it.
    expect(await failure("serve", "-H", "192.0.2.1", "-p", "0")).toContain("192.0.2.1")
  })

  test("with a device that is not there: the list of those that are", async () => {
    const message = await failure("serve", "-p", "0", "-d", "CUDA77")
    expect(message).toContain("CUDA77")
    expect(message).toMatch(/\n {2}CPU: .+ MiB/)
  })

  test("with a port that is none", async () => {
    expect(await usageError("serve", "-p", "65536")).toContain("--port")
    expect(await usageError("serve", "some.gguf")).toContain("one word too many")
  })
})
