import { afterAll, beforeAll, expect, test } from "bun:test"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { hostMemory, memoryPools } from "./memory.ts"

const mib = 2 ** 20

let root = ""
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "ggml-rpc-memory-"))
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

let count = 0
/** hostMemory of a machine with 1000 MiB, 600 of them available, and these files. */
const memoryWith = (files: Record<string, string>) => {
  const folder = join(root, String(count++))
  const all = {
    "proc/meminfo": [
      `MemTotal:        ${1000 * 1024} kB`,
      `MemFree:         ${100 * 1024} kB`,
      `MemAvailable:    ${600 * 1024} kB`,
      "",
    ].join("\n"),
    ...files,
  }
  for (const [name, text] of Object.entries(all)) {
    const path = join(folder, name)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, text)
  }
  const { freeBytes, totalBytes } = hostMemory(join(folder, "proc"), join(folder, "cgroup"))
  return [freeBytes / mib, totalBytes / mib]
}

/** Files of a version 2 group; `usage` and `inactive` in MiB. */
const v2 = (path: string, limit: string, usage: number, inactive = 0) => ({
  [`cgroup${path}/memory.max`]: `${limit}\n`,
  [`cgroup${path}/memory.current`]: `${usage * mib}\n`,
  [`cgroup${path}/memory.stat`]: `anon 1\nfile ${inactive * mib}\ninactive_file ${inactive * mib}\n`,
})

const v1 = (path: string, limit: string, usage: number, inactive = 0) => ({
  [`cgroup/memory${path}/memory.limit_in_bytes`]: `${limit}\n`,
  [`cgroup/memory${path}/memory.usage_in_bytes`]: `${usage * mib}\n`,
  [`cgroup/memory${path}/memory.stat`]: `inactive_file 1\ntotal_inactive_file ${inactive * mib}\n`,
})

test("without groups it is what the machine has available, not what is unused", () => {
  expect(memoryWith({})).toEqual([600, 1000])
  expect(memoryWith({ "proc/self/cgroup": "0::/no/such/group\n" })).toEqual([600, 1000])
})

test("a group's limit lowers both", () => {
  const files = { "proc/self/cgroup": "0::/a\n", ...v2("/a", String(300 * mib), 50) }
  expect(memoryWith(files)).toEqual([250, 300])
})

test("the limit can be on any group around, or on the root that a container sees", () => {
  const nested = {
    "proc/self/cgroup": "0::/outer/inner\n",
    ...v2("/outer", String(300 * mib), 100),
    ...v2("/outer/inner", "max", 10),
  }
  expect(memoryWith(nested)).toEqual([200, 300])
  const root = { "proc/self/cgroup": "0::/\n", ...v2("", String(200 * mib), 150) }
  expect(memoryWith(root)).toEqual([50, 200])
  const both = { ...nested, ...v2("/outer/inner", String(150 * mib), 10) }
  expect(memoryWith(both)).toEqual([140, 150])
})

test("file cache that the kernel would drop counts as free", () => {
  const files = { "proc/self/cgroup": "0::/a\n", ...v2("/a", String(300 * mib), 250, 100) }
  expect(memoryWith(files)).toEqual([150, 300])
})

test("a limit that is no limit changes nothing", () => {
  expect(memoryWith({ "proc/self/cgroup": "0::/a\n", ...v2("/a", "max", 900) })).toEqual([
    600, 1000,
  ])
  expect(
    memoryWith({
      "proc/self/cgroup": "4:memory:/a\n",
      ...v1("/a", "9223372036854771712", 900),
    }),
  ).toEqual([600, 1000])
})

test("a limit above the machine's memory leaves the machine's", () => {
  const files = { "proc/self/cgroup": "0::/a\n", ...v2("/a", String(5000 * mib), 100) }
  expect(memoryWith(files)).toEqual([600, 1000])
})

test("a group above its limit has nothing left", () => {
  const files = { "proc/self/cgroup": "0::/a\n", ...v2("/a", String(300 * mib), 400) }
  expect(memoryWith(files)).toEqual([0, 300])
})

test("version 1 groups lie in a folder of their own", () => {
  const files = {
    "proc/self/cgroup": "12:cpu,cpuacct:/a\n5:devices:/a\n4:hugetlb,memory:/a/b\n0::/unified\n",
    ...v1("/a", String(300 * mib), 200, 50),
    ...v1("/a/b", "9223372036854771712", 10),
    // A group of another controller must not be looked at.
    ...v2("/a", String(10 * mib), 1),
  }
  expect(memoryWith(files)).toEqual([150, 300])
})

test("a version 1 group that a container sees under another path is the root's", () => {
  const files = { "proc/self/cgroup": "4:memory:/docker/abc\n", ...v1("", String(300 * mib), 100) }
  expect(memoryWith(files)).toEqual([200, 300])
})

test("of each group that limits, who draws from it as well is known", () => {
  const folder = join(root, String(count))
  memoryWith({
    "proc/self/cgroup": "0::/a/b/c\n",
    ...v2("/a", String(500 * mib), 50),
    ...v2("/a/b", "max", 40),
    ...v2("/a/b/c", String(300 * mib), 40),
    "proc/2/cgroup": "0::/a/b/c/d\n",
    "proc/3/cgroup": "0::/a/b\n",
    "proc/4/cgroup": "0::/ab\n",
    "proc/5/cgroup": "4:memory:/a/b/c\n",
  })
  const pools = memoryPools(join(folder, "proc"), join(folder, "cgroup"))
  expect(pools.map(({ totalBytes }) => totalBytes / mib)).toEqual([1000, 500, 300])
  const held = pools.map(({ holds }) => [2, 3, 4, 5, 6].filter(holds))
  expect(held).toEqual([[2, 3, 4, 5, 6], [2, 3], [2]])
  expect(new Set(pools.map(({ id }) => id)).size).toBe(3)
})

test("this machine has memory", () => {
  const { freeBytes, totalBytes } = hostMemory()
  expect(freeBytes).toBeGreaterThan(0)
  expect(freeBytes).toBeLessThanOrEqual(totalBytes)
})
