/** Many clients against one server: what they cost others, and what the system does to the server meanwhile. */
import { describe, expect, setDefaultTimeout, test } from "bun:test"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { isAlive } from "../../packages/server/test/processes.ts"
import { type ChildProcess, startProcess, waitUntil } from "../peers/process.ts"
import { type OurServer, startOurServer } from "../servers.ts"
import type { AttackKind, AttackReport } from "./attackers.ts"
import { firstAnswerMs, SteadyClient } from "./steadyClient.ts"

setDefaultTimeout(60_000)

const TICKS_A_SECOND = 100

/** Processor seconds that a process has had; 0 when it is gone. */
const cpuSeconds = (pid: number): number => {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8")
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
    return (Number(fields[11]) + Number(fields[12])) / TICKS_A_SECOND
  } catch {
    return 0
  }
}

const startAttack = (
  kind: AttackKind,
  count: number,
  port: number,
  seconds: number,
): ChildProcess =>
  startProcess([
    ...[process.execPath, join(import.meta.dir, "attackers.ts"), kind],
    ...[count, port, seconds].map(String),
  ])

const reportOf = async (attack: ChildProcess): Promise<AttackReport> => {
  expect(await attack.exited).toBe(0)
  return JSON.parse(attack.stdout()) as AttackReport
}

/** What each process of a server has had of the processor since, as it changes all the time which there are. */
const watchProcesses = (server: OurServer) => {
  const first = new Map([server.pid, ...server.sessionPids()].map((pid) => [pid, cpuSeconds(pid)]))
  const last = new Map<number, number>()
  const look = (): void => {
    for (const pid of [server.pid, ...server.sessionPids()]) last.set(pid, cpuSeconds(pid))
  }
  return {
    look,
    secondsOf: (pid: number): number => (last.get(pid) ?? 0) - (first.get(pid) ?? 0),
    pids: (): readonly number[] => [...last.keys()],
  }
}

describe("20 clients in a loop beside one that computes", () => {
  test.each(["refuse", "compute"] as const)(
    "take less than half of a core, and a few lines of the log: %s",
    async (kind) => {
      await using server = await startOurServer()
      using steady = new SteadyClient(server.port)
      steady.rate(300)
      const own = [...server.sessionPids()].sort((a, b) => cpuSeconds(b) - cpuSeconds(a))[0]!
      await using attack = startAttack(kind, 20, server.port, 12)
      // The first ones are free, as a burst of clients would be.
      steady.rate(4000)
      const started = performance.now()
      const watched = watchProcesses(server)
      for (let times = 0; times < 30; times++) {
        steady.rate(200)
        watched.look()
        await Bun.sleep(0)
      }
      const seconds = (performance.now() - started) / 1000
      const others = watched.pids().filter((pid) => pid !== own)
      const taken = others.reduce((sum, pid) => sum + watched.secondsOf(pid), 0)
      expect(taken / seconds).toBeLessThan(0.5)
      const { connectionCount } = await reportOf(attack)
      expect(connectionCount).toBeGreaterThan(20)
      const lines = server
        .stderr()
        .split("\n")
        .filter((line) => line.includes("disconnected"))
      expect(lines.length).toBeGreaterThan(0)
      expect(lines.length).toBeLessThan(6)
    },
  )
})

describe("64 clients", () => {
  test("that say a byte every three seconds keep nobody out", async () => {
    await using server = await startOurServer()
    await using attack = startAttack("drip", 64, server.port, 8)
    await Bun.sleep(2000)
    for (let times = 0; times < 5; times++) {
      expect(firstAnswerMs(server.port)).toBeLessThan(2000)
      await Bun.sleep(1000)
    }
    expect(server.sessionPids()).toHaveLength(1)
    await reportOf(attack)
  })
})

describe("a server that may have 64 files open", () => {
  const start = () => startOurServer({ prefix: ["prlimit", "--nofile=64:64"] })

  test("says how many clients it serves, serves them, and turns others away", async () => {
    await using server = await start()
    const [, count] = /enough for (\d+) clients at a time, not 64/.exec(server.stderr()) ?? []
    expect(Number(count)).toBeGreaterThan(1)
    const clients = Array.from({ length: Number(count) }, () => new SteadyClient(server.port))
    expect(() => new SteadyClient(server.port)).toThrow()
    for (const client of clients) client.round()
    for (const client of clients) client[Symbol.dispose]()
    expect(
      await waitUntil(() => server.stderr().includes("clients are connected already"), 2000),
    ).toBe(true)
  })

  test("neither ends nor spins at more connections than that, and takes whoever speaks", async () => {
    await using server = await start()
    await using attack = startAttack("silent", 100, server.port, 4)
    await Bun.sleep(1000)
    const before = cpuSeconds(server.pid)
    for (let times = 0; times < 10; times++) {
      expect(firstAnswerMs(server.port)).toBeLessThan(2000)
      await Bun.sleep(200)
    }
    expect(cpuSeconds(server.pid) - before).toBeLessThan(1)
    expect(readdirSync(`/proc/${server.pid}/fd`).length).toBeLessThanOrEqual(64)
    await reportOf(attack)
    expect(server.isRunning()).toBe(true)
    expect(firstAnswerMs(server.port)).toBeGreaterThan(0)
  })
})

describe("signals", () => {
  test("SIGHUP ends a server in order, with its sessions", async () => {
    await using server = await startOurServer()
    using client = new SteadyClient(server.port)
    const sessions = server.sessionPids()
    server.signal("SIGHUP")
    expect(await server.exited).toBe(0)
    expect(sessions.some(isAlive)).toBe(false)
    expect(() => client.round()).toThrow()
  })

  test("but not one that was started with nohup", async () => {
    await using server = await startOurServer({ prefix: ["nohup"] })
    using client = new SteadyClient(server.port)
    for (const pid of [server.pid, ...server.sessionPids()]) process.kill(pid, "SIGHUP")
    await Bun.sleep(300)
    client.round()
    expect(firstAnswerMs(server.port)).toBeGreaterThan(0)
  })

  test("a stopped session stops nobody else, and ends with the server", async () => {
    await using server = await startOurServer()
    using steady = new SteadyClient(server.port)
    const before = new Set(server.sessionPids())
    using stopped = new SteadyClient(server.port)
    const [session] = server.sessionPids().filter((pid) => !before.has(pid))
    process.kill(session!, "SIGSTOP")
    for (let times = 0; times < 20; times++) steady.round()
    using third = new SteadyClient(server.port)
    third.round()
    // Its client may leave, too.
    stopped[Symbol.dispose]()
    steady.round()
    server.signal("SIGTERM")
    expect(await server.exited).toBe(0)
    expect(isAlive(session!)).toBe(false)
  })

  test("a killed session ends for its client alone", async () => {
    await using server = await startOurServer()
    using steady = new SteadyClient(server.port)
    const before = new Set(server.sessionPids())
    using other = new SteadyClient(server.port)
    const [session] = server.sessionPids().filter((pid) => !before.has(pid))
    process.kill(session!, "SIGKILL")
    expect(() => other.round()).toThrow()
    steady.round()
    using next = new SteadyClient(server.port)
    next.round()
  })

  test("no session outlives a killed front process: serving, stopped by its client's end, or starting", async () => {
    await using server = await startOurServer()
    const clients = Array.from({ length: 3 }, () => new SteadyClient(server.port))
    // Their successor is starting.
    clients.pop()![Symbol.dispose]()
    await Bun.sleep(50)
    const sessions = server.sessionPids()
    server.signal("SIGKILL")
    expect(await server.exited).toBe(137)
    expect(await waitUntil(() => !sessions.some(isAlive), 3000)).toBe(true)
    for (const client of clients) client[Symbol.dispose]()
  })
})
