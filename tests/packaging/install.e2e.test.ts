/**
 * The packages as an outsider gets them: from a registry on loopback, in an empty folder and an empty home, on machines that
 * have Node alone, Bun, or a compiler.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { startProcess, waitUntil } from "../peers/process.ts"
import { type Machine, makeMachine, sizeOf } from "./machine.ts"
import { installed, type Registry, startRegistry } from "./registry.ts"
import { bundleVectors } from "./vectors.ts"

setDefaultTimeout(180_000)

/** What `npm install ggml-rpc` may take. */
const MAX_INSTALLED_BYTES = 160e6
/** What installing and the demo may take together. */
const MAX_SECONDS = 60

let folder = ""
let registry: Registry
let node: Machine
let bun: Machine
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-packaging-"))
  registry = await startRegistry(folder)
  node = makeMachine(join(folder, "node"), registry.url, ["node", "npm", "npx", "sh", "readlink"])
  bun = makeMachine(join(folder, "bun"), registry.url, ["bun", "readlink"])
})
afterAll(async () => {
  await registry?.[Symbol.asyncDispose]()
  chmodSync(folder, 0o700)
  rmSync(folder, { recursive: true, force: true })
})

const seconds = async <A>(work: () => Promise<A>): Promise<readonly [A, number]> => {
  const started = performance.now()
  const result = await work()
  return [result, (performance.now() - started) / 1000]
}

const install = async (machine: Machine, project: string, ...packages: string[]) => {
  const npm = ["npm", "install", "--no-progress", ...packages]
  const command = machine === bun ? ["bun", "add", ...packages] : npm
  const { exitCode, stderr, stdout } = await machine.run(command, {
    cwd: project,
    timeoutMs: 120_000,
  })
  expect([exitCode, exitCode === 0 ? "" : stdout + stderr]).toEqual([0, ""])
}

const recital = "You are watching one language model"

describe("a machine with Node alone", () => {
  test("npm install ggml-rpc, and the demo, in less than a minute and 160 MB", async () => {
    const project = node.project("app")
    const [, installing] = await seconds(() => install(node, project, "ggml-rpc"))
    const size = sizeOf(join(project, "node_modules"))
    const [demo, running] = await seconds(() =>
      node.run(["npx", "ggml-rpc", "demo"], { cwd: project }),
    )
    console.log(
      `npm install ggml-rpc: ${installing.toFixed(1)} s, ${(size / 1e6).toFixed(0)} MB; ggml-rpc demo: ${running.toFixed(1)} s`,
    )
    expect(demo).toMatchObject({ exitCode: 0 })
    expect(demo.stdout).toContain(recital)
    expect(demo.stderr).not.toContain("building")
    expect(size).toBeLessThan(MAX_INSTALLED_BYTES)
    expect(installing + running).toBeLessThan(MAX_SECONDS)
  })

  test("npx ggml-rpc --version tells the version, and a usage error keeps its exit code", async () => {
    const cwd = join(folder, "node", "app")
    const version = registry.packages.find(({ name }) => name === "ggml-rpc")!.version
    const told = await node.run(["npx", "ggml-rpc", "--version"], { cwd })
    expect(told).toEqual({ exitCode: 0, stdout: `ggml-rpc ${version}\n`, stderr: "" })
    const usage = await node.run(["npx", "ggml-rpc", "serve", "--nothing"], { cwd })
    expect(usage.exitCode).toBe(2)
  })

  test("a server and a client, which a signal to the launcher ends", async () => {
    const cwd = join(folder, "node", "app")
    const saved = await node.run(["npx", "ggml-rpc", "demo", "--save", "demo.gguf"], { cwd })
    expect(saved.exitCode).toBe(0)
    const launcher = join(cwd, "node_modules", ".bin", "ggml-rpc")
    await using server = startProcess([launcher, "serve", "--port", "0", "--threads", "1"], {
      cwd,
      env: { ...node.env, XDG_STATE_HOME: "/dev/null" },
    })
    const endpoint = /listening on (\S+)/
    expect(await waitUntil(() => endpoint.test(server.stdout()), 20_000)).toBe(true)
    const [, address] = endpoint.exec(server.stdout())!
    const flags = ["--rpc", address!, "--device", "none", "-p", "Hello", "--temp", "0"]
    const ran = await node.run(["npx", "ggml-rpc", "run", "demo.gguf", ...flags], { cwd })
    expect([ran.exitCode, ran.stdout.slice(0, recital.length)]).toEqual([0, recital])
    server.signal("SIGTERM")
    expect(await server.exited).toBe(0)
  })

  test("without any Bun it says so in a sentence", async () => {
    const cwd = join(folder, "node", "app")
    const launcher = join(installed(cwd, "ggml-rpc"), "dist", "launcher.sh")
    const alone = node.project("alone", { "launcher.sh": await Bun.file(launcher).text() })
    const told = await node.run(["sh", "./launcher.sh", "demo"], { cwd: alone })
    expect(told.exitCode).toBe(1)
    expect(told.stderr).toMatch(/^ggml-rpc needs Bun 1\.4\.5 or newer: .*npm install bun.*\n$/)
  })
})

describe("a machine with Bun alone", () => {
  test("bunx ggml-rpc demo", async () => {
    const project = bun.project("app")
    const [demo, took] = await seconds(() =>
      bun.run(["bunx", "ggml-rpc", "demo"], { cwd: project, timeoutMs: 120_000 }),
    )
    console.log(`bunx ggml-rpc demo: ${took.toFixed(1)} s`)
    expect(demo).toMatchObject({ exitCode: 0 })
    expect(demo.stdout).toContain(recital)
  })

  test("bun add, where packages see their own dependencies alone", async () => {
    const project = bun.project("isolated", { "bunfig.toml": '[install]\nlinker = "isolated"\n' })
    await install(bun, project, "ggml-rpc", "@ggml-rpc/native")
    expect(existsSync(join(project, "node_modules", "@node-llama-cpp"))).toBe(false)
    const demo = await bun.run(["bun", "run", "ggml-rpc", "demo"], { cwd: project })
    expect(demo).toMatchObject({ exitCode: 0 })
    expect(demo.stderr).not.toContain("building")
    const program = `import { librarySet, shimLibrary } from "@ggml-rpc/native"; console.log(shimLibrary(librarySet().variant, "io"))`
    const told = await bun.run(["bun", "-e", program], { cwd: project })
    expect(told.stdout).toContain(join("lib", "libggmlrpc_io."))
  })
})

describe("the libraries", () => {
  const libraries = ["protocol", "gguf", "server", "client", "models", "chat", "api"].map(
    (name) => `@ggml-rpc/${name}`,
  )
  let project = ""
  beforeAll(async () => {
    project = node.project("libraries")
    await install(node, project, ...libraries, "ggml-rpc", "effect@3.22.4")
  })

  const inNode = (program: string) =>
    node.run(["node", "--input-type=module", "-e", program], { cwd: project })

  test("protocol's vectors pass in Node", async () => {
    await Bun.write(join(project, "vectors.mjs"), await bundleVectors("node", ""))
    const told = await inNode(
      `import { isDeepStrictEqual } from "node:util"
       globalThis.isEqual = isDeepStrictEqual; globalThis.report = console.log; await import("./vectors.mjs")`,
    )
    expect(told.stderr).toBe("")
    expect(told.stdout).toMatch(/^\d{3} passed\n$/)
    console.log(
      `vectors in ${(await inNode("console.log('Node ' + process.version)")).stdout.trim()}: ${told.stdout.trim()}`,
    )
  })

  test("and in a browser's bundle, which has nothing of Node", async () => {
    const entry = join(installed(project, "@ggml-rpc/protocol"), "dist", "src", "index.js")
    await Bun.write(join(project, "browser.js"), await bundleVectors("browser", entry))
    const told = await inNode(
      `import { readFileSync } from "node:fs"; import vm from "node:vm"
       import { isDeepStrictEqual as isEqual } from "node:util"
       const realm = { TextEncoder, TextDecoder, isEqual, report: console.log }
       vm.runInNewContext(readFileSync("browser.js", "utf8"), realm)`,
    )
    expect(told.stderr).toBe("")
    expect(told.stdout).toMatch(/^\d{3} passed\n$/)
  })

  test("gguf reads in Node what it has written", async () => {
    const told = await inNode(
      `import { readGguf, writeGguf, ggufString } from "@ggml-rpc/gguf"
       writeGguf("tiny.gguf", { metadata: [["general.name", { type: "string", value: "tiny" }]], tensors: [] })
       const file = await readGguf("tiny.gguf")
       console.log(ggufString(file, "general.name"))`,
    )
    expect(told).toEqual({ exitCode: 0, stdout: "tiny\n", stderr: "" })
  })

  test("those that need Bun say so in a sentence, whatever is imported from them", async () => {
    const imports = [
      `import { Cluster } from "@ggml-rpc/client"; Cluster.open({ endpoints: [] })`,
      `import { serve } from "@ggml-rpc/server"; serve({})`,
      `import { Llama, hostMemory } from "@ggml-rpc/native"; hostMemory(Llama)`,
    ]
    for (const program of imports) {
      const name = /from "([^"]+)"/.exec(program)![1]
      const told = await inNode(program)
      expect(told.exitCode).toBe(1)
      expect(told.stderr).toContain(
        `Error: ${name} needs Bun 1.4.5 or newer, since it calls native code through bun:ffi: start the program with 'bun', or with 'npx bun'.`,
      )
    }
  })

  describe("type-check in a strict project without a runtime's types", () => {
    const consumer = readFileSync(join(import.meta.dir, "consumer", "main.ts"), "utf8")
    const tsc = join(import.meta.dir, "..", "..", "node_modules", ".bin", "tsc")
    for (const module of ["nodenext", "bundler"]) {
      for (const skipLibCheck of [true, false]) {
        test(`module ${module}, skipLibCheck ${skipLibCheck}`, async () => {
          const config = {
            compilerOptions: {
              ...(module === "nodenext"
                ? { module }
                : { module: "esnext", moduleResolution: "bundler" }),
              ...{ target: "es2022", strict: true, exactOptionalPropertyTypes: true },
              ...{ noUncheckedIndexedAccess: true, noEmit: true, types: [], skipLibCheck },
            },
            files: ["main.ts"],
          }
          await Bun.write(join(project, "main.ts"), consumer)
          await Bun.write(join(project, "tsconfig.json"), JSON.stringify(config))
          const told = await node.run([process.execPath, tsc, "--pretty", "false"], {
            cwd: project,
          })
          expect(told).toEqual({ exitCode: 0, stdout: "", stderr: "" })
        })
      }
    }
  })

  test("the examples run", async () => {
    const examples = join(import.meta.dir, "..", "..", "packages", "client", "examples")
    for (const name of ["promise", "effect"]) {
      await Bun.write(join(project, `${name}.ts`), Bun.file(join(examples, `${name}.ts`)))
    }
    await Bun.write(
      join(project, "serve.ts"),
      `import { writeDemoModel } from "ggml-rpc/demo-model"
       import { serve } from "@ggml-rpc/server"
       import { Effect } from "effect"
       writeDemoModel("demo.gguf")
       await Effect.runPromise(Effect.scoped(Effect.gen(function* () {
         console.log("on", (yield* serve({ port: 0, log: () => {} })).endpoint)
         yield* Effect.never
       })))`,
    )
    const env = { ...bun.env, XDG_STATE_HOME: "/dev/null" }
    await using server = startProcess([process.execPath, "serve.ts"], { cwd: project, env })
    await waitUntil(() => server.stdout().includes("\n") || !server.isRunning(), 20_000)
    expect([server.stdout(), server.stderr()]).toEqual([expect.stringMatching(/^on \S+\n$/), ""])
    const endpoint = server.stdout().trim().slice("on ".length)
    for (const name of ["promise", "effect"]) {
      const told = await bun.run(["bun", `${name}.ts`, "demo.gguf", endpoint], { cwd: project })
      expect(told).toMatchObject({ exitCode: 0, stderr: "" })
      expect(told.stdout).toStartWith(recital)
    }
  })
})

describe("a machine whose platform has no prebuilt shim", () => {
  test("compiles it once from what the package carries, though node_modules is read-only", async () => {
    const tools = [
      "node",
      "npm",
      "npx",
      "sh",
      "readlink",
      "cmake",
      "make",
      "c++",
      "g++",
      "cc",
      "gcc",
      "ld",
      "as",
      "ar",
      "ranlib",
    ]
    const machine = makeMachine(join(folder, "compiler"), registry.url, tools)
    const project = machine.project("app")
    await install(machine, project, "ggml-rpc")
    const modules = join(project, "node_modules")
    rmSync(join(modules, "@ggml-rpc", `native-${process.platform}-${process.arch}`, "lib"), {
      recursive: true,
    })
    // By root, who runs the tests in containers, a folder without the right to write is written all the same.
    const before = readdirSync(modules, { recursive: true, encoding: "utf8" }).sort()
    for (const path of ["ggml-rpc", "ggml-rpc/native"]) chmodSync(join(modules, path), 0o555)
    // Half the time; what the shim computes is tested elsewhere.
    const CXX = join(project, "c++")
    await Bun.write(CXX, '#!/bin/sh\nexec c++ "$@" -O0\n')
    chmodSync(CXX, 0o755)
    // Where nothing answers: it asks for nothing.
    const env = { CXX, npm_config_registry: "http://127.0.0.1:9/" }
    const demo = await machine.run(["npx", "ggml-rpc", "demo"], {
      cwd: project,
      env,
      timeoutMs: 150_000,
    })
    expect(demo.stderr).toContain("building the native shim for base (once)")
    expect(demo).toMatchObject({ exitCode: 0 })
    const cached = join(machine.home, ".cache", "ggml-rpc")
    expect(existsSync(cached)).toBe(true)
    console.log(`the compiled shim takes ${(sizeOf(cached) / 1e6).toFixed(1)} MB of the cache`)
    expect(readdirSync(modules, { recursive: true, encoding: "utf8" }).sort()).toEqual(before)
    const again = await machine.run(["npx", "ggml-rpc", "demo"], { cwd: project, env })
    expect([again.exitCode, again.stderr.includes("building")]).toEqual([0, false])
    for (const path of ["ggml-rpc", "ggml-rpc/native"]) chmodSync(join(modules, path), 0o755)
  })

  test("and no compiler says what to install, in a sentence", async () => {
    const project = join(folder, "node", "app")
    const lib = join(
      project,
      "node_modules",
      "@ggml-rpc",
      `native-${process.platform}-${process.arch}`,
      "lib",
    )
    rmSync(lib, { recursive: true })
    const told = await node.run(["npx", "ggml-rpc", "demo"], { cwd: project })
    expect(told.exitCode).toBe(1)
    expect(told.stderr).toContain("cmake is not on PATH")
  })
})
