import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { basename, join } from "node:path"
import { ensureSource } from "@ggml-rpc/native/source"

// A build takes seconds, and this machine may be busy.
setDefaultTimeout(300_000)

let root = ""
let source = ""
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), "ggml-rpc-build-"))
  source = await ensureSource()
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

let count = 0
/** A build folder that has the source and nothing else. */
const buildFolder = (): string => {
  const folder = join(root, String(count++))
  mkdirSync(folder)
  symlinkSync(source, join(folder, basename(source)))
  return folder
}

/** A PATH with nothing but empty programs of these names. */
const pathWith = (...names: ReadonlyArray<string>): string => {
  const folder = join(root, `path-${names.join("-")}`)
  mkdirSync(folder, { recursive: true })
  for (const name of names) writeFileSync(join(folder, name), "", { mode: 0o755 })
  return folder
}

const build = async (
  folder: string,
  env: Record<string, string> = {},
  args: ReadonlyArray<string> = [],
): Promise<{ exitCode: number; lines: ReadonlyArray<string> }> => {
  const { CXX: _, GGML_RPC_VARIANT: __, ...inherited } = process.env
  const child = Bun.spawn(
    [process.execPath, join(import.meta.dir, "../../packages/native/scripts/build.ts"), ...args],
    {
      env: { ...inherited, GGML_RPC_BUILD_DIR: folder, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    },
  )
  const [stdout, stderr, exitCode] = await Promise.all([
    child.stdout.text(),
    child.stderr.text(),
    child.exited,
  ])
  expect(stdout).toBe("")
  return { exitCode, lines: stderr.trim().split("\n") }
}

describe("what is missing is said in one sentence", () => {
  test("cmake", async () => {
    const { exitCode, lines } = await build(buildFolder(), { PATH: pathWith() })
    expect(exitCode).toBe(1)
    expect(lines).toEqual([
      "cmake is not on PATH, and the native shim is built with it: install cmake 3.18 or newer (Debian: apt install cmake).",
    ])
  })

  test("a C++ compiler", async () => {
    const { exitCode, lines } = await build(buildFolder(), { PATH: pathWith("cmake") })
    expect(exitCode).toBe(1)
    expect(lines).toEqual([
      "There is no C++ compiler on PATH, and the native shim is C++17: install one (Debian: apt install g++; macOS: xcode-select --install).",
    ])
  })

  test("a folder that can be written", async () => {
    const folder = join(root, "file")
    writeFileSync(folder, "")
    const { exitCode, lines } = await build(folder)
    expect(exitCode).toBe(1)
    expect(lines.at(-1)).toMatch(/^The build folder .*\/file cannot be written \(.*\): free it, /)
  })
})

test("a compiler that fails is shown with cmake's last lines", async () => {
  const folder = buildFolder()
  const broken = join(root, "broken-c++")
  writeFileSync(broken, "#!/bin/sh\nexit 1\n", { mode: 0o755 })
  const { exitCode, lines } = await build(folder, { CXX: broken })
  expect(exitCode).toBe(1)
  const text = lines.join("\n")
  expect(text).toContain("cmake could not build the native part (exit code 1). Its last lines:")
  expect(text).toContain("is not able to compile a simple test program")
  // Nothing half-built stays.
  expect(readdirSync(join(folder, "shim"))).toEqual([])
})

test("arguments that it does not know are a usage error", async () => {
  const folder = buildFolder()
  for (const args of [["--fast"], ["--", "-j4"], ["-DGGML_CUDA=ON"]]) {
    const { exitCode, lines } = await build(folder, {}, args)
    expect(exitCode).toBe(2)
    expect(lines.length).toBe(1)
    expect(lines[0]).toContain("Usage: bun run build:native")
  }
})

test("what finds and binds libraries imports nothing that builds them", () => {
  const folder = join(import.meta.dir, "../../packages/native/src")
  const files = [...new Bun.Glob("**/*.ts").scanSync(folder)]
  const importing = files.filter((file) =>
    /from "(\.\.\/)+scripts\//.test(readFileSync(join(folder, file), "utf8")),
  )
  expect(files).not.toEqual([])
  expect(importing).toEqual([])
})

test("every source of the shim is in one of its libraries", () => {
  const folder = join(import.meta.dir, "../../packages/native")
  const list = readFileSync(join(folder, "CMakeLists.txt"), "utf8")
  const built = [...list.matchAll(/shim\/\S+\.cpp/g)].map(([path]) => path)
  const sources = [...new Bun.Glob("shim/**/*.cpp").scanSync(folder)]
  expect(built.sort()).toEqual(sources.sort())
})

test("two builds at once give one shim, which is not built again", async () => {
  const folder = buildFolder()
  // What is compiled is not looked at: libraries of nothing, in a second.
  const quick = join(root, "quick-c++")
  const empty = join(root, "empty.cpp")
  writeFileSync(empty, "")
  writeFileSync(
    quick,
    `#!/bin/sh
for given in "$@"; do
  shift
  case "$given" in */shim/*.cpp) given=${empty} ;; esac
  set -- "$@" "$given"
done
exec c++ "$@"
`,
    { mode: 0o755 },
  )
  const both = await Promise.all([build(folder, { CXX: quick }), build(folder, { CXX: quick })])
  expect(both.map(({ exitCode }) => exitCode)).toEqual([0, 0])
  for (const variant of readdirSync(join(folder, "shim"))) {
    expect(variant).not.toStartWith(".build-")
    const names = readdirSync(join(folder, "shim", variant)).sort()
    expect(names.map((name) => name.replace(/\.(so|dylib)$/, ""))).toEqual([
      "libggmlrpc_ggml",
      "libggmlrpc_io",
      "libggmlrpc_llama",
      "stamp",
    ])
  }
  expect(existsSync(join(folder, "shim", "base"))).toBe(true)
  // Without a compiler it can only be found.
  const again = await build(folder, { PATH: pathWith() })
  expect(again.exitCode).toBe(0)
  expect(again.lines.join("\n")).not.toContain("building")
  // A shim of other sources is none.
  writeFileSync(join(folder, "shim", "base", "stamp"), "of other sources")
  expect((await build(folder, { PATH: pathWith() })).exitCode).toBe(1)
})
