/** The one executable, on a system that has glibc and libstdc++ and nothing else: no shell, no Node, no certificate. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { basename, dirname, join } from "node:path"
import { runProcess } from "../peers/process.ts"

setDefaultTimeout(120_000)

const root = join(import.meta.dir, "..", "..")
let folder = ""
let binary = ""
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-one-file-"))
  binary = join(folder, "ggml-rpc")
  const built = await runProcess([process.execPath, "scripts/binary.ts", binary], { cwd: root })
  expect([built.exitCode, built.stderr]).toEqual([0, ""])
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Of libc6, libgcc-s1 and libstdc++6, which are on every Debian, by where the linker finds them here. */
const systemLibraries = [
  ...["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"],
  ...["libgcc_s.so.1", "libstdc++.so.6", "ld-linux-x86-64.so.2"],
]

/** Name → path of the libraries that the system's linker knows. */
const knownLibraries = async (): Promise<ReadonlyMap<string, string>> => {
  const { stdout } = await runProcess(["/sbin/ldconfig", "-p"])
  return new Map(
    [...stdout.matchAll(/^\s+(\S+) \(libc6,x86-64[^)]*\) => (\S+)$/gm)].map(([, name, path]) => [
      name!,
      path!,
    ]),
  )
}

const bareSystem = async (at: string): Promise<void> => {
  const known = await knownLibraries()
  for (const name of systemLibraries) {
    const path = known.get(name) ?? "none"
    const target = join(at, name.startsWith("ld-") ? "lib64" : dirname(path), name)
    mkdirSync(dirname(target), { recursive: true })
    copyFileSync(path, target)
  }
  for (const name of ["proc", "dev", "tmp", "root"]) mkdirSync(join(at, name))
  copyFileSync(binary, join(at, "ggml-rpc"))
}

const inside = (at: string, args: string) =>
  runProcess(
    [
      ...["unshare", "--mount", "--pid", "--fork", "--kill-child"],
      ...(process.getuid?.() === 0 ? [] : ["--user", "--map-root-user"]),
      ...["sh", "-c"],
      `mount -t proc proc ${at}/proc && mount --rbind /dev ${at}/dev && exec chroot ${at} /ggml-rpc ${args}`,
    ],
    {
      env: {
        HOME: "/root",
        PATH: `${process.env.PATH}:/usr/sbin:/sbin`,
        XDG_CACHE_HOME: undefined,
      },
    },
  )

test("the demo on a system with nothing installed, which unpacks once", async () => {
  const at = join(folder, "root")
  await bareSystem(at)
  expect(existsSync(join(at, "bin", "sh"))).toBe(false)
  const first = await inside(at, "demo")
  expect([first.exitCode, first.exitCode === 0 ? "" : first.stdout + first.stderr]).toEqual([0, ""])
  expect(first.stdout).toContain("You are watching one language model")
  const cache = join(at, "root", ".cache", "ggml-rpc")
  const [unpacked, ...more] = readdirSync(cache)
  expect(more).toEqual([])
  const library = join(cache, unpacked!, "bins", "libggml-base.so")
  const written = statSync(library).mtimeMs
  const again = await inside(at, "demo")
  expect(again.exitCode).toBe(0)
  expect(statSync(library).mtimeMs).toBe(written)
  console.log(`one file: ${(statSync(binary).size / 1e6).toFixed(0)} MB`)
})

test("version, help and usage errors need no folder; a command says which one it needs", async () => {
  const env = { HOME: "/dev/null", XDG_CACHE_HOME: undefined }
  const told = await runProcess([binary, "--version"], { env })
  expect(told.stdout).toMatch(/^ggml-rpc \d+\.\d+\.\d+\n$/)
  expect((await runProcess([binary, "serve", "--help"], { env })).exitCode).toBe(0)
  const failed = await runProcess([binary, "devices"], { env })
  expect(failed.exitCode).toBe(1)
  expect(failed.stderr).toMatch(
    /^ggml-rpc: The libraries in this executable cannot be unpacked to \/dev\/null\//,
  )
})

test("what it carries is what it uses: no library of this checkout is opened", async () => {
  const home = join(folder, "home")
  const probe = await runProcess([binary, "devices", "--json"], {
    env: { HOME: home, XDG_CACHE_HOME: undefined, GGML_RPC_BUILD_DIR: "/nonexistent" },
    cwd: folder,
  })
  expect([probe.exitCode, probe.stderr]).toEqual([0, ""])
  expect(probe.stdout).toContain("CPU")
  expect(
    readdirSync(join(home, ".cache", "ggml-rpc")).map((name) => basename(name))[0],
  ).toStartWith("unpacked-")
})
