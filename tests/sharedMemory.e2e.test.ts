/** Two servers in one group whose memory is limited: what it has is given once. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { accessSync, constants, existsSync, mkdirSync, rmdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { writeDemoModel } from "ggml-rpc/demo-model"
import { jsonLines, runCli, temporaryFolder } from "./cli/program.ts"
import { waitUntil } from "./peers/process.ts"
import { type OurServer, startOurServer } from "./servers.ts"

setDefaultTimeout(60_000)

const LIMIT_BYTES = 560 * 2 ** 20

/** Where groups are made, by the version of cgroups; undefined where this user may make none. */
const place = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].find((path) => {
  try {
    accessSync(path, constants.W_OK)
    return existsSync(join(path, "cgroup.procs"))
  } catch {
    return false
  }
})

const group = join(place ?? "", `ggml-rpc-test-${process.pid}`)
const limitFile = (): string | undefined =>
  ["memory.limit_in_bytes", "memory.max"]
    .map((name) => join(group, name))
    .find((path) => existsSync(path))

/** Whether there is such a group now. */
const makeGroup = (): boolean => {
  if (place === undefined) return false
  try {
    mkdirSync(group)
    const file = limitFile()
    if (file === undefined) return false
    writeFileSync(file, String(LIMIT_BYTES))
    return true
  } catch {
    return false
  }
}

const isMade = makeGroup()
const folder = temporaryFolder()
const model = join(folder.path, "demo.gguf")
let servers: ReadonlyArray<OurServer> = []

beforeAll(async () => {
  if (!isMade) return
  writeDemoModel(model)
  const prefix = ["sh", "-c", `echo $$ > ${join(group, "cgroup.procs")} && exec "$@"`, "sh"]
  servers = await Promise.all([startOurServer({ prefix }), startOurServer({ prefix })])
})

afterAll(async () => {
  for (const server of servers) await server.stop()
  folder[Symbol.dispose]()
  if (place === undefined || !existsSync(group)) return
  // Its processes take a moment to be gone.
  await waitUntil(() => {
    try {
      rmdirSync(group)
      return true
    } catch {
      return false
    }
  }, 5000)
})

interface Planned {
  readonly event: string
  readonly missingBytes?: number
  readonly shared: ReadonlyArray<{
    devices: ReadonlyArray<string>
    hasHost: boolean
    freeBytes: number
  }>
  readonly devices: ReadonlyArray<{
    freeBytes: number
    totalBytes: number
    weightBytes: number
    contextBytes: number
    computeBytes: number
  }>
}

const plan = async (rpc: string, contextSize: number): Promise<Planned> => {
  const words = ["plan", model, "--rpc", rpc, "-ngl", "all", "-dev", "none", "--json"]
  const result = await runCli([...words, "-c", String(contextSize)])
  return jsonLines(result.stdout)[0] as unknown as Planned
}

/** Tokens that take a MiB of KV cache for each of eight layers, and on each of two servers a MiB to compute with. */
const STEP = 4096
const STEP_BYTES = 10 * 2 ** 20

test.skipIf(!isMade)("a plan counts the memory of the group once", async () => {
  const [one, two] = servers.map(({ endpoint }) => endpoint)
  const small = await plan(`${one},${two}`, STEP)
  expect(small.devices.map(({ totalBytes }) => totalBytes)).toEqual([LIMIT_BYTES, LIMIT_BYTES])
  const [shared, ...more] = small.shared
  expect(more).toEqual([])
  expect(shared).toMatchObject({ devices: ["RPC0", "RPC1"], hasHost: false })
  expect(shared!.freeBytes).toBeLessThan(LIMIT_BYTES)
  // Half of it fits. More than all of it does not, though each server has room for its part.
  const { freeBytes } = shared!
  const tokens = (bytes: number): number => Math.floor(bytes / STEP_BYTES) * STEP
  const fits = await plan(`${one},${two}`, tokens(0.5 * freeBytes))
  expect(fits.event).toBe("plan")
  const taken = fits.devices.map((use) => use.weightBytes + use.contextBytes + use.computeBytes)
  expect(Math.min(...taken)).toBeGreaterThan(0)
  expect(taken[0]! + taken[1]!).toBeLessThan(freeBytes)
  const twice = await plan(`${one},${two}`, tokens(1.4 * freeBytes))
  expect(twice).toMatchObject({ event: "error", reason: "does-not-fit" })
})
