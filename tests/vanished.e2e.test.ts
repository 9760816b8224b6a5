/**
 * A server's host that vanishes: cable pulled, power gone. Needs a network of its own between the two
 * sides, which only root can make on Linux.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { ensureModel } from "./models/models.ts"
import { startProcess, waitUntil } from "./peers/process.ts"
import { ggmlRpc, type OurServer, startOurServer } from "./servers.ts"

setDefaultTimeout(90_000)

// Addresses for benchmarks (RFC 2544): nobody uses them.
const name = `grpc${process.pid % 100_000}`
const ours = { link: `${name}a`, address: "198.18.0.1" }
const theirs = { link: `${name}b`, address: "198.18.0.2" }
const inside = ["ip", "netns", "exec", name]

const tryRun = (...command: readonly string[]): boolean => {
  try {
    return Bun.spawnSync([...command]).exitCode === 0
  } catch {
    return false
  }
}

const isPossible = process.platform === "linux" && tryRun("ip", "netns", "add", name)

const mustRun = (...command: readonly string[]): void => {
  if (!tryRun(...command)) throw new Error(`${command.join(" ")} failed`)
}

const plug = (state: "up" | "down"): void =>
  mustRun(...inside, "ip", "link", "set", theirs.link, state)

let server: OurServer

beforeAll(async () => {
  if (!isPossible) return
  mustRun("ip", "link", "add", ours.link, "type", "veth", "peer", "name", theirs.link)
  mustRun("ip", "link", "set", theirs.link, "netns", name)
  mustRun("ip", "addr", "add", `${ours.address}/30`, "dev", ours.link)
  mustRun("ip", "link", "set", ours.link, "up")
  mustRun(...inside, "ip", "addr", "add", `${theirs.address}/30`, "dev", theirs.link)
  mustRun(...inside, "ip", "link", "set", "lo", "up")
  plug("up")
  server = await startOurServer({
    prefix: inside,
    flags: ["--host", theirs.address, "--allow", "198.18.0.0/15"],
  })
})

afterAll(async () => {
  if (!isPossible) return
  await server?.stop()
  // The pair goes with one of its ends, or with the namespace.
  tryRun("ip", "link", "del", ours.link)
  mustRun("ip", "netns", "del", name)
})

test.skipIf(!isPossible)(
  "in the middle of an upload ends run within half a minute, with its name",
  async () => {
    const path = await ensureModel("large")
    await using child = startProcess([
      ...[...ggmlRpc, "run", "--rpc", server.endpoint, path, "-p", "a", "-n", "1"],
      ...["--threads", "1", "--json"],
    ])
    const isUploading = () => child.stdout().includes('"isDone":false')
    expect(await waitUntil(() => isUploading() || !child.isRunning(), 30_000)).toBe(true)
    plug("down")
    const started = performance.now()
    expect(await child.exited).toBe(1)
    expect(performance.now() - started).toBeLessThan(40_000)
    expect(child.stderr()).toContain(`error: Lost the server ${server.endpoint}`)
    plug("up")
    // The server noticed as well, and has freed what it held.
    expect(await waitUntil(() => server.sessionPids().length <= 1, 40_000)).toBe(true)
  },
)
