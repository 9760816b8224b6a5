import { afterEach, beforeEach, describe, expect, test } from "bun:test"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  chooseSet,
  type LibraryVariant,
  libraryErrorOf,
  librarySet,
  librarySets,
  missingGpuPackage,
  NativeLibraryError,
  shimFolder,
  shimLibrary,
} from "./libraries.ts"
import {
  installedVariants,
  llamaVersion,
  PrebuiltMissingError,
  packageVersion,
  prebuiltPackage,
} from "./prebuilt.ts"

const suffix = process.platform === "darwin" ? "dylib" : "so"

let build = ""
const before = { ...process.env }
beforeEach(() => {
  build = mkdtempSync(join(tmpdir(), "ggml-rpc-libraries-"))
  process.env.GGML_RPC_BUILD_DIR = build
  delete process.env.GGML_RPC_VARIANT
})
afterEach(() => {
  rmSync(build, { recursive: true, force: true })
  for (const name of ["GGML_RPC_BUILD_DIR", "GGML_RPC_VARIANT"]) {
    if (before[name] === undefined) delete process.env[name]
    else process.env[name] = before[name]
  }
})

const makeSource = (...names: ReadonlyArray<string>): string => {
  const dir = join(build, "source", "lib")
  mkdirSync(dir, { recursive: true })
  for (const name of names) writeFileSync(join(dir, `lib${name}.${suffix}`), "")
  return dir
}

const thrown = (run: () => unknown): unknown => {
  try {
    run()
  } catch (error) {
    return error
  }
  throw new Error("nothing was thrown")
}

describe("the set of libraries", () => {
  test("is the installed package's", () => {
    expect(installedVariants()).toContain("base")
    const set = librarySets().find(({ variant }) => variant === "base")
    expect(set?.ggml).toMatch(/libggml(\.v[\d.]+)?\.(so|dylib)$/)
    expect(set?.ggmlBase).toMatch(/libggml-base(\.v[\d.]+)?\.(so|dylib)$/)
    expect(set?.llama).toMatch(/libllama(\.v[\d.]+)?\.(so|dylib)$/)
  })

  test("is looked for on the disk alone, also where no package is near", async () => {
    const before = process.cwd()
    const asked: string[] = []
    // What Bun would do there by itself is to download the packages that are missing.
    const registry = Bun.serve({
      port: 0,
      fetch: ({ url }) => {
        asked.push(url)
        return new Response("", { status: 404 })
      },
    })
    try {
      const program = `const { installedVariants } = await import(${JSON.stringify(join(import.meta.dir, "prebuilt.ts"))}); console.log(installedVariants().join())`
      process.chdir(build)
      const installed = installedVariants()
      const child = Bun.spawn([process.execPath, "-e", program], {
        cwd: build,
        env: { ...process.env, HOME: build, BUN_CONFIG_REGISTRY: registry.url.href },
      })
      expect((await new Response(child.stdout).text()).trim()).toBe(installed.join())
    } finally {
      process.chdir(before)
      registry.stop(true)
    }
    expect(asked).toEqual([])
  })

  test("is the one built from source, once there is one", () => {
    const dir = makeSource("ggml-base", "ggml", "ggml-cpu", "llama", "llama-common")
    expect(librarySet()).toEqual({
      variant: "source",
      dir,
      ggmlBase: join(dir, `libggml-base.${suffix}`),
      ggml: join(dir, `libggml.${suffix}`),
      llama: join(dir, `libllama.${suffix}`),
    })
  })

  test("is the one that GGML_RPC_VARIANT names", () => {
    makeSource("ggml-base", "ggml", "llama")
    process.env.GGML_RPC_VARIANT = "base"
    expect(librarySet().variant).toBe("base")
    process.env.GGML_RPC_VARIANT = ""
    expect(librarySet().variant).toBe("source")
  })

  test("that is not there is an error which lists those that are", () => {
    process.env.GGML_RPC_VARIANT = "rocm"
    const error = thrown(librarySet)
    expect(error).toBeInstanceOf(NativeLibraryError)
    expect((error as Error).message).toMatch(/'rocm', which is not installed; there are: .*base/)
  })

  test("of another release is an error which names the right one", () => {
    makeSource("ggml-base", "ggml.v0.4.9", "llama")
    const error = thrown(librarySets)
    expect(error).toBeInstanceOf(NativeLibraryError)
    expect((error as Error).message).toContain(`of llama.cpp v0.4.9, and ${llamaVersion} is needed`)
  })

  test("that lacks a library is an error which names it", () => {
    makeSource("ggml-base", "ggml")
    const error = thrown(librarySets)
    expect(error).toBeInstanceOf(NativeLibraryError)
    expect((error as Error).message).toContain("holds no libllama:")
  })
})

test("the set fits the GPUs that the machine shows; NVIDIA's do Vulkan without a render node", () => {
  const files = { dir: "/", ggmlBase: "/b", ggml: "/g", llama: "/l" }
  const set = (variant: LibraryVariant) => ({ variant, ...files })
  const chosen = (nvidia: boolean, renderNode: boolean, ...variants: LibraryVariant[]) =>
    chooseSet(variants.map(set), { nvidia, renderNode }).variant
  expect(chosen(false, false, "cuda", "vulkan", "base")).toBe("base")
  expect(chosen(false, true, "cuda", "vulkan", "base")).toBe("vulkan")
  expect(chosen(true, false, "cuda", "vulkan", "base")).toBe("cuda")
  expect(chosen(true, false, "vulkan", "base")).toBe("vulkan")
})

describe("the shim", () => {
  test("has a folder for each set", () => {
    expect(shimFolder("cuda")).toBe(join(build, "shim", "cuda"))
  })

  test("that is not built is an error which tells how to build it", () => {
    const error = thrown(() => shimLibrary("base", "io"))
    expect(error).toBeInstanceOf(NativeLibraryError)
    expect((error as Error).message).toContain("run 'bun run build:native'")
  })
})

test("errors of opening libraries are typed, and keep the typed ones", () => {
  const missing = new PrebuiltMissingError({ packageName: "p", message: "m" })
  expect(libraryErrorOf(missing)).toBe(missing)
  const own = new NativeLibraryError({ message: "m" })
  expect(libraryErrorOf(own)).toBe(own)
  const cause = new Error("libllama.so: undefined symbol: x")
  const other = libraryErrorOf(cause)
  expect(other).toMatchObject({ _tag: "NativeLibraryError", cause })
  expect(other.message).toContain("undefined symbol: x")
})

describe("a GPU that the set cannot use", () => {
  const set = (variant: LibraryVariant) => ({ ...librarySet(), variant })
  const none = { nvidia: false, renderNode: false }

  test.skipIf(process.platform !== "linux")("is pointed out with the package to add", () => {
    const nvidia = missingGpuPackage(set("base"), { nvidia: true, renderNode: true })
    expect(nvidia).toContain("NVIDIA")
    expect(nvidia).toContain(`'bun add ${prebuiltPackage("cuda")}@${packageVersion}'`)
    const other = missingGpuPackage(set("base"), { nvidia: false, renderNode: true })
    expect(other).toContain(`'bun add ${prebuiltPackage("vulkan")}@${packageVersion}'`)
  })

  test("is not there, or the set can use it", () => {
    expect(missingGpuPackage(set("base"), none)).toBeUndefined()
    for (const variant of ["cuda", "vulkan", "source"] as const) {
      expect(missingGpuPackage(set(variant), { nvidia: true, renderNode: true })).toBeUndefined()
    }
  })
})
