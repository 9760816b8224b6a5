import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { delimiter, join } from "node:path"
import {
  ensureSource,
  installedVariants,
  llamaVersion,
  PrebuiltMissingError,
  prebuiltDir,
  prebuiltLibraries,
} from "@ggml-rpc/native/source"
import { runProcess } from "./process.ts"

setDefaultTimeout(120_000)

const scratch = mkdtempSync(join(tmpdir(), "source-test-"))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

/** Runs ensureSource in a process of its own, with another build folder, PATH and environment. */
const ensureSourceWith = (env: Record<string, string>) => fetchWith("source.ensureSource()", env)

const fetchWith = async (call: string, env: Record<string, string>) => {
  const root = join(scratch, Bun.randomUUIDv7())
  const code = `
    import * as source from "@ggml-rpc/native/source"
    const result = await ${call}.then(
      (path) => ({ path }),
      (error) => ({ tag: error._tag, reason: error.reason, message: error.message }),
    )
    console.log(JSON.stringify(result))`
  const result = await runProcess([process.execPath, "-e", code], {
    cwd: import.meta.dir,
    env: { GGML_RPC_BUILD_DIR: root, ...env },
    timeoutMs: 100_000,
  })
  expect(result).toMatchObject({ exitCode: 0, stderr: "" })
  return { root, ...JSON.parse(result.stdout) }
}

/** A folder for PATH with the given tools: the real ones, or scripts by their text. */
const pathWith = (tools: Record<string, string | true>): string => {
  const folder = mkdtempSync(join(scratch, "bin-"))
  for (const [name, script] of Object.entries(tools)) {
    if (script === true) symlinkSync(Bun.which(name) ?? "", join(folder, name))
    else writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  }
  return folder
}

describe("ensureSource", () => {
  test("is instant once the tree is there", async () => {
    const first = await ensureSource()
    expect(existsSync(join(first, "ggml", "include", "ggml-rpc.h"))).toBe(true)
    expect(await ensureSource()).toBe(first)
  })

  test("two processes at once both get the whole tree, where a damaged one was", async () => {
    const root = join(scratch, "at-once")
    mkdirSync(join(root, `llama.cpp-${llamaVersion}`, "src"), { recursive: true })
    const [first, second] = await Promise.all([
      ensureSourceWith({ GGML_RPC_BUILD_DIR: root }),
      ensureSourceWith({ GGML_RPC_BUILD_DIR: root }),
    ])
    expect(first.path).toBe(join(root, `llama.cpp-${llamaVersion}`))
    expect(second.path).toBe(first.path)
    expect(existsSync(join(first.path, "tools", "rpc", "rpc-server.cpp"))).toBe(true)
    expect(readdirSync(root)).toEqual([`llama.cpp-${llamaVersion}`])
  })

  test("names a missing npm and a missing git", async () => {
    const noNpm = await ensureSourceWith({ PATH: pathWith({ git: true }) })
    expect(noNpm).toMatchObject({ tag: "SourceError", reason: "npm" })
    expect(noNpm.message).toContain("npm is not on PATH")
    const noGit = await ensureSourceWith({ PATH: pathWith({ npm: true, node: true }) })
    expect(noGit).toMatchObject({ tag: "SourceError", reason: "git" })
    expect(noGit.message).toContain("git is not on PATH")
  })

  test("a registry out of reach is a network error with npm's reason, within seconds", async () => {
    const started = performance.now()
    const failure = await ensureSourceWith({
      npm_config_registry: "http://127.0.0.1:9",
      npm_config_cache: join(scratch, "npm-cache"),
    })
    expect(failure).toMatchObject({ tag: "SourceError", reason: "network" })
    expect(failure.message).toContain("ECONNREFUSED")
    expect(failure.message).toContain("from this machine, which may be offline")
    // npm's own retries take a minute and more.
    expect(performance.now() - started).toBeLessThan(20_000)
    expect(readdirSync(failure.root)).toEqual([])
  })

  test("another file than the pinned one is refused", async () => {
    const npm = pathWith({ npm: "echo other > node-llama-cpp-3.22.1.tgz" })
    const failure = await ensureSourceWith({ PATH: `${npm}${delimiter}${process.env.PATH}` })
    expect(failure).toMatchObject({ tag: "SourceError", reason: "checksum" })
    expect(failure.message).toContain("sha512-")
    expect(readdirSync(failure.root)).toEqual([])
  })

  test("a folder that cannot be written is named", async () => {
    writeFileSync(join(scratch, "a-file"), "")
    const root = join(scratch, "a-file", "build")
    const failure = await ensureSourceWith({ GGML_RPC_BUILD_DIR: root })
    expect(failure).toMatchObject({ tag: "SourceError", reason: "disk" })
    expect(failure.message).toContain(root)
  })
})

describe("a part of the source", () => {
  test("comes without the rest and without the repository", async () => {
    const target = join(scratch, "part")
    const call = `source.ensureSource({ target: ${JSON.stringify(target)}, pathspecs: ["include"] })`
    expect(await fetchWith(call, {})).toMatchObject({ path: target })
    expect(readdirSync(target)).toEqual(["include"])
    // There it is, so nothing is fetched.
    expect(await fetchWith(call, { PATH: pathWith({}) })).toMatchObject({ path: target })
  })
})

describe("ensurePackage", () => {
  const packageCall = (target: string): string =>
    `source.ensurePackage({ name: "left", version: "1.0.0", integrity: "sha512-x" }, ${JSON.stringify(target)})`

  test("refuses other bytes than the pinned ones", async () => {
    const npm = pathWith({ npm: "echo other > left-1.0.0.tgz" })
    const target = join(scratch, "package")
    const failure = await fetchWith(packageCall(target), {
      PATH: `${npm}${delimiter}${process.env.PATH}`,
    })
    expect(failure).toMatchObject({ tag: "SourceError", reason: "checksum" })
    expect(existsSync(target)).toBe(false)
  })

  test("names the package that npm could not fetch", async () => {
    const npm = pathWith({ npm: "echo 'npm error 404 Not Found' >&2; exit 1" })
    const failure = await fetchWith(packageCall(join(scratch, "package")), {
      PATH: `${npm}${delimiter}${process.env.PATH}`,
    })
    expect(failure).toMatchObject({ tag: "SourceError", reason: "network" })
    expect(failure.message).toContain("could not fetch left@1.0.0")
    expect(failure.message).toContain("404 Not Found")
  })
})

describe("prebuilt libraries", () => {
  test("are found by their roles in the base package", () => {
    const libraries = prebuiltLibraries()
    expect(libraries.dir).toBe(prebuiltDir())
    const roles = [libraries.ggmlBase, libraries.ggml, libraries.llama, libraries.llamaCommon]
    expect(new Set(roles).size).toBe(4)
    for (const path of [...roles, ...libraries.backends]) expect(existsSync(path ?? "")).toBe(true)
    expect(libraries.backends.length).toBeGreaterThan(0)
    for (const path of libraries.backends) expect(path).toContain("ggml-")
    expect(libraries.backends).not.toContain(libraries.ggmlBase)
  })

  test.skipIf(installedVariants().includes("vulkan"))(
    "a variant that is not installed is named with the command that adds it",
    () => {
      expect(() => prebuiltDir("vulkan")).toThrow(PrebuiltMissingError)
      expect(() => prebuiltDir("vulkan")).toThrow(/bun add @node-llama-cpp\/[\w-]+-vulkan@3\.22\.1/)
    },
  )
})
