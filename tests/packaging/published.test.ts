/** The folders that 'bun run build' makes, as tools and registries read them. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { checkPackage, createPackageFromTarballData, type Problem } from "@arethetypeswrong/core"
import { thisPlatform } from "@ggml-rpc/native/source"
import { publint } from "publint"
import type * as PageSource from "../../packages/api/src/own/pageSource.ts"
import { baseLibraries, newestNeeded, symbolVersions } from "../../scripts/publish/shim.ts"
import { type StagedPackage, stageAll } from "../../scripts/publish/stage.ts"
import { runProcess } from "../peers/process.ts"
import { folderOf } from "./registry.ts"

setDefaultTimeout(120_000)

/** Of Ubuntu 22.04, Debian 12 and RHEL 9; what README says. */
const GLIBC = "2.34"
/** The libstdc++ of GCC 11, which those have. */
const GLIBCXX = "3.4.29"

let folder = ""
let packages: ReadonlyArray<StagedPackage> = []
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-published-"))
  packages = await stageAll(folder)
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const files = (of: string): ReadonlyArray<string> =>
  readdirSync(of, { recursive: true, encoding: "utf8" })

const manifestOf = ({ folder: at }: StagedPackage) =>
  JSON.parse(readFileSync(join(at, "package.json"), "utf8")) as Record<string, unknown>

/** These packages are ES modules, and say so. */
const isOfCommonJs = (problem: Problem): boolean =>
  "resolutionKind" in problem && ["node10", "node16-cjs"].includes(problem.resolutionKind)

/** What is meant for everybody, by name; of the platforms' own packages this machine's. */
const libraries = [
  ...[
    "@ggml-rpc/protocol",
    "@ggml-rpc/gguf",
    "@ggml-rpc/native",
    "@ggml-rpc/server",
    "@ggml-rpc/models",
    "@ggml-rpc/chat",
  ],
  ...["@ggml-rpc/client", "@ggml-rpc/api", "ggml-rpc"],
]

test("every package has a licence, a README, and what a registry asks for", () => {
  expect(packages.map(({ name }) => name)).toEqual(expect.arrayContaining(libraries))
  for (const staged of packages) {
    expect(files(staged.folder)).toEqual(expect.arrayContaining(["LICENSE", "README.md"]))
    const manifest = manifestOf(staged)
    const { name, version } = staged
    expect(manifest).toMatchObject({ name, version, license: "MIT" })
    expect(manifest).toMatchObject({ repository: { type: "git" }, description: expect.any(String) })
    expect(manifest.private).toBeUndefined()
    expect(JSON.stringify(manifest)).not.toMatch(/workspace:|catalog:|devDependencies/)
  }
})

test("no test, no TypeScript source and no door but the intended ones is shipped", () => {
  for (const staged of packages) {
    const odd = files(staged.folder).filter(
      (path) => /test|fuzz|fixtures|\.compiled/i.test(path) || /(?<!\.d)\.ts$/.test(path),
    )
    expect(odd).toEqual([])
    expect(Object.keys((manifestOf(staged).exports as object) ?? {})).not.toContain("./fuzz")
  }
})

test("every export leads to a file, types first, and every module has a source map with its source", () => {
  for (const name of libraries) {
    const at = folderOf(packages, name)
    const doors = Object.entries(
      JSON.parse(readFileSync(join(at, "package.json"), "utf8")).exports as object,
    )
    for (const [door, target] of doors) {
      const paths = typeof target === "string" ? [target] : Object.values(target as object)
      for (const path of paths) expect([door, existsSync(join(at, path))]).toEqual([door, true])
      if (typeof target !== "string") expect(Object.keys(target as object)[0]).toBe("types")
    }
    const modules = files(at).filter(
      (path) =>
        /\.js$/.test(path) &&
        !/needs-bun|pageSource/.test(path) &&
        // The program's chunks are made of other chunks.
        !(name === "ggml-rpc" && existsSync(join(at, `${path}.jsc`))),
    )
    expect(modules.length).toBeGreaterThan(0)
    for (const module of modules) {
      const map = JSON.parse(readFileSync(join(at, `${module}.map`), "utf8")) as {
        readonly sources: ReadonlyArray<string>
        readonly sourcesContent?: ReadonlyArray<string>
      }
      expect([module, map.sourcesContent?.length]).toEqual([module, map.sources.length])
      // A chunk of the bundle may do nothing but hand on what is in another.
      if (!module.includes("chunk-"))
        expect([module, map.sources.length > 0]).toEqual([module, true])
    }
  }
})

test("the page of the API is made, in the library and in the program", async () => {
  const source = join(folderOf(packages, "@ggml-rpc/api"), "dist", "src", "own", "pageSource.js")
  const { loadPage } = (await import(source)) as typeof PageSource
  expect((await loadPage()).html).toContain('<script type="module">')
  const dist = join(folderOf(packages, "ggml-rpc"), "dist")
  const chunks = files(dist).filter((path) => path.endsWith(".js"))
  const texts = chunks.map((path) => readFileSync(join(dist, path), "utf8"))
  expect(texts.filter((text) => text.includes("<!doctype html>")).length).toBe(1)
})

test("declarations need the types of no runtime", () => {
  for (const name of libraries) {
    const at = folderOf(packages, name)
    for (const path of files(at).filter((file) => file.endsWith(".d.ts"))) {
      const code = readFileSync(join(at, path), "utf8").replace(/\/\*[\s\S]*?\*\//g, "")
      const found = /\bBun\.|\bNodeJS\.|"bun(:\w+)?"|from "node:|import\("node:|\bBuffer\b/.exec(
        code,
      )
      expect([path, found?.[0]]).toEqual([path, undefined])
    }
  }
})

test("engine and session are one file each, and its bytecode", () => {
  for (const [name, path] of [
    ["@ggml-rpc/client", "dist/src/engine/main.js"],
    ["@ggml-rpc/server", "dist/src/session/main.js"],
  ] as const) {
    const file = join(folderOf(packages, name), path)
    expect(existsSync(`${file}.jsc`)).toBe(true)
    const code = readFileSync(file, "utf8")
    const imports = [...code.matchAll(/\brequire\("([^"]+)"\)/g)].map(([, module]) => module)
    expect(imports).toContain("bun:ffi")
    expect(imports.filter((module) => !/^(node:|bun)|^[a-z_]+$/.test(module!))).toEqual([])
  }
})

test("ggml-rpc names the licences of what is bundled into it", () => {
  const text = readFileSync(join(folderOf(packages, "ggml-rpc"), "THIRD-PARTY-LICENSES.md"), "utf8")
  for (const name of ["effect", "yargs-parser"])
    expect(text).toMatch(new RegExp(`^## ${name} \\d`, "m"))
  expect(text).toContain("MIT License")
  expect(text).not.toContain("not named")
})

test.skipIf(process.platform !== "linux")(
  `the shim needs glibc ${GLIBC}, as the libraries do that it is linked to`,
  () => {
    const lib = join(
      folderOf(packages, `@ggml-rpc/native-${thisPlatform.os}-${thisPlatform.cpu}`),
      "lib",
    )
    const shim = readdirSync(lib).map((name) => join(lib, name))
    expect(shim.map((path) => path.slice(lib.length + 1)).sort()).toEqual(
      ["ggml", "io", "llama"].map((name) => `libggmlrpc_${name}.so`),
    )
    // The oldest that any program of this architecture asks for: the names are found.
    expect(symbolVersions(shim[0]!, "GLIBC")).toContain("2.2.5")
    expect(newestNeeded(baseLibraries(), "GLIBC")).toBe(GLIBC)
    expect(newestNeeded([...shim, ...baseLibraries()], "GLIBC")).toBe(GLIBC)
    expect(newestNeeded(shim, "GLIBCXX")).toBe(GLIBCXX)
    // It lies anywhere: no path of the machine that built it is in it.
    for (const path of shim) expect(readFileSync(path, "latin1")).not.toContain("/node_modules/")
  },
)

describe("tools that look at packages find nothing wrong", () => {
  test("publint", async () => {
    for (const { name, folder: pkgDir } of packages) {
      const { messages } = await publint({
        pkgDir,
        ...{ strict: true, level: "warning", pack: false },
      })
      expect([name, messages]).toEqual([name, []])
    }
  })

  for (const name of libraries) {
    test(`are the types wrong: ${name}`, async () => {
      const pack = await runProcess(["npm", "pack", "--silent", "--pack-destination", folder], {
        cwd: folderOf(packages, name),
      })
      expect(pack.exitCode).toBe(0)
      const tarball = readFileSync(join(folder, pack.stdout.trim()))
      const checked = await checkPackage(createPackageFromTarballData(tarball))
      expect(checked.types).toBeTruthy()
      expect(checked).toHaveProperty("problems")
      const { problems } = checked as Extract<typeof checked, { problems: unknown }>
      expect(problems.filter((problem) => !isOfCommonJs(problem))).toEqual([])
    })
  }
})

test("a release that is tried prints versions and an order, and changes nothing that is kept", async () => {
  const root = join(import.meta.dir, "..", "..")
  const kept = ["CHANGELOG.md", "packages/cli/package.json", "packages/protocol/package.json"]
  const texts = () => kept.map((path) => readFileSync(join(root, path), "utf8"))
  const before = texts()
  const tried = await runProcess(
    [process.execPath, "scripts/release.ts", "--dry-run", join(folder, "release")],
    { cwd: root },
  )
  expect([tried.exitCode, tried.stderr]).toEqual([0, ""])
  expect(texts()).toEqual(before)
  const order = [...tried.stdout.matchAll(/# (\S+)@(\S+)$/gm)].map(([, name]) => name!)
  expect(order).toEqual(packages.map(({ name }) => name))
  for (const [index, name] of order.entries()) {
    const { dependencies = {}, optionalDependencies = {} } = manifestOf(packages[index]!) as Record<
      string,
      object
    >
    const needed = Object.keys({ ...dependencies, ...optionalDependencies })
    const later = needed.filter((other) => order.indexOf(other) > index)
    expect([name, later]).toEqual([name, []])
  }
})

test("the documents of the API have a page a name", async () => {
  const docs = join(folder, "docs")
  const made = await runProcess(
    [process.execPath, join(import.meta.dir, "..", "..", "scripts", "docs.ts"), docs],
    { timeoutMs: 110_000 },
  )
  expect(made.exitCode).toBe(0)
  const page = files(docs).find((path) => /functions\/.*openCluster\.html$/.test(path))
  expect(readFileSync(join(docs, page ?? "none"), "utf8")).toContain("Connects to all servers")
  expect(files(docs).filter((path) => path.endsWith(".html")).length).toBeGreaterThan(200)
})
