/** What a session process that a client has taken over can no longer do, and that it goes on serving. */
import { describe, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { io } from "@ggml-rpc/native/bindings"
import { Command } from "@ggml-rpc/protocol"
import { partsFolder, SEALING_LANDLOCK } from "../src/cache/CacheFolder.ts"
import type { SandboxOptions, SandboxReport } from "../src/session/sandbox.ts"
import { largest } from "./processes.ts"
import type { Attempt, Trial } from "./sandbox.testChild.ts"
import { TestClient } from "./TestClient.ts"
import { withServer } from "./withServer.ts"

interface Outcome {
  readonly report: SandboxReport
  /** Of each attempt: `done` or an error's name; the signal that ended the process where it was made. */
  readonly ends: readonly string[]
}

const threads = ["main", "other"] as const

/** Makes the attempts one after the other in a process that has entered the sandbox. */
const attemptAll = async (
  attempts: readonly Attempt[],
  thread: Trial["thread"] = "main",
  options: Partial<SandboxOptions> = {},
): Promise<Outcome> => {
  const trial: Trial = { thread, attempts, options }
  const module = join(import.meta.dir, "sandbox.testChild.ts")
  const child = Bun.spawn([process.execPath, module, JSON.stringify(trial)], {
    stdio: ["ignore", "pipe", "pipe"],
  })
  const [said, error] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ])
  await child.exited
  const [report = "", ...ends] = said.trim().split("\n")
  if (report === "") throw new Error(error)
  const signal = child.signalCode === null ? [] : [String(child.signalCode)]
  return { report: JSON.parse(report) as SandboxReport, ends: [...ends, ...signal] }
}

/** The same as pairs of an attempt and its end. */
const endsOf = async (
  expected: ReadonlyArray<readonly [...Attempt, string]>,
  thread?: Trial["thread"],
  options?: Partial<SandboxOptions>,
): Promise<ReadonlyArray<readonly [...Attempt, string]>> => {
  const attempts = expected.map(([name, argument]): Attempt => [name, argument])
  const { ends } = await attemptAll(attempts, thread, options)
  return attempts.map((attempt, index) => [...attempt, ends[index] ?? "not reached"] as const)
}

/** A process of another kind than a session. */
const other = String(process.pid)

test("this machine has all of it", async () => {
  const { report } = await attemptAll([])
  expect(report).toMatchObject({ calls: true, memory: true, problems: [] })
  expect(report.landlock).toBeGreaterThan(0)
})

test("what the system refuses is told, part by part", async () => {
  // From inside of a sandbox it refuses all of them.
  const { ends } = await attemptAll([["enter again", ""]])
  expect(ends).toEqual([
    "memory limit: Operation not permitted, Landlock: Function not implemented, confining threads: Operation already in progress, seccomp: Operation not permitted",
  ])
})

describe.each(threads)("on the thread '%s'", (thread) => {
  test("files, other processes, sockets and programs are out of reach", async () => {
    const expected = [
      ["open", "/etc/passwd", "EACCES"],
      ["open", process.execPath, "EACCES"],
      ["open", import.meta.path, "EACCES"],
      ["open", "/sys/kernel/mm/transparent_hugepage/enabled", "EACCES"],
      ["write", "/tmp/ggml-rpc-sandbox", "EACCES"],
      ["write", "/proc/self/oom_score_adj", "EACCES"],
      ["open", `/proc/${other}/mem`, "EACCES"],
      ["read", `/proc/${other}/maps`, "EACCES"],
      ["spawn", "", "EPERM"],
      ["fork", "", "EPERM"],
      ["socket", "", "EPERM"],
      ["local socket", "", "EPERM"],
      ["connect by sending", "", "EPERM"],
      ["kill", other, "EPERM"],
      ["signal by socket", other, "EPERM"],
      ["memfd_create", "", "EPERM"],
      ["shared memory", "", "EPERM"],
      ["setpriority", other, "EPERM"],
      ["undo no_new_privs", "", "EPERM"],
      ["io_uring_setup", "", "ENOSYS"],
    ] as const
    expect(await endsOf(expected, thread)).toEqual(expected)
  })

  test("what serving a client takes goes on working", async () => {
    const expected = [
      ["read", "/proc/meminfo", "done"],
      ["read", "/proc/self/cgroup", "done"],
      ["read", `/proc/${other}/status`, "done"],
      ["send", "", "done"],
      ["kill", "itself", "done"],
      ["private memory", String(2 ** 30), "done"],
    ] as const
    expect(await endsOf(expected, thread)).toEqual(expected)
  })
})

test.each([
  ["exec", "", "main"],
  ["exec", "", "other"],
  ["connect", "", "main"],
  ["connect", "", "other"],
  ["bind", "", "main"],
  ["listen", "", "main"],
  ["accept", "", "main"],
  ["ptrace", other, "main"],
  ["process_vm_readv", other, "main"],
  ["mount", "", "main"],
  ["unshare", "", "main"],
  ["bpf", "", "main"],
  ["keyctl", "", "main"],
  ["perf_event_open", "", "main"],
] as const)("%s %s on the thread '%s' ends the process", async (name, argument, thread) => {
  expect((await attemptAll([[name, argument]], thread)).ends).toEqual(["SIGSYS"])
})

test("more memory than may be served is not to be had", async () => {
  const gibibytes = (count: number): string => String(count * 2 ** 30)
  const expected = [
    ["private memory", gibibytes(1), "done"],
    ["private memory", gibibytes(16), "ENOMEM"],
  ] as const
  expect(await endsOf(expected, "main", { memoryBytes: 2 ** 30 })).toEqual(expected)
})

// Needs Linux 6.2.
const whereFilesAreSealed = test.skipIf(io().io_landlock_abi() < SEALING_LANDLOCK)

whereFilesAreSealed("files of the cache folder are made and read, and none beside it", async () => {
  const folder = mkdtempSync(join(tmpdir(), "ggml-rpc-sandbox-"))
  // It is made where it is missing.
  const cacheDir = join(folder, "rpc")
  try {
    writeFileSync(join(folder, "b"), "beside")
    const part = join(partsFolder(cacheDir), "a")
    const done = join(cacheDir, "a")
    const expected = [
      ["write", part, "done"],
      ["move", `${part} ${done}`, "done"],
      ["open", done, "done"],
      ["open", join(folder, "b"), "EACCES"],
      ["write", join(folder, "c"), "EACCES"],
      // What is finished may be mapped by another session: nobody changes it, or makes who reads it wait.
      ["write", done, "EACCES"],
      ["write into", done, "EACCES"],
      ["write", join(cacheDir, "b"), "EACCES"],
      ["move", `${done} ${part}`, "EXDEV"],
      ["lease to read", done, "done"],
      ["lease to write", done, "EPERM"],
      ["remove", done, "done"],
    ] as const
    for (const thread of threads) {
      expect(await endsOf(expected, thread, { cacheDir })).toEqual(expected)
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test("links to other servers keep TCP, and nothing else", async () => {
  const expected = [
    ["socket", "", "done"],
    ["connect to a port", "", "ECONNREFUSED"],
    ["local socket", "", "EPERM"],
    ["open", "/etc/passwd", "EACCES"],
    ["exec", "", "SIGSYS"],
  ] as const
  expect(await endsOf(expected, "other", { makesCommLinks: true })).toEqual(expected)
})

test("drivers keep their libraries and shared memory, and nothing else", async () => {
  const expected = [
    ["open", "/usr/bin/env", "done"],
    ["shared memory", "", "done"],
    ["open", "/etc/passwd", "EACCES"],
    ["socket", "", "EPERM"],
    ["exec", "", "SIGSYS"],
  ] as const
  expect(await endsOf(expected, "other", { hasDrivers: true })).toEqual(expected)
})

const field = (pid: number, name: string): string =>
  new RegExp(`^${name}:\\s+(\\w+)`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]!

const limitsOf = (pid: number): string => readFileSync(`/proc/${pid}/limits`, "utf8")

describe("a session process of a server", () => {
  test("is in it before its client comes, and says so in the banner's words", () =>
    withServer({}, async ({ port, processIds, sandbox }) => {
      expect(sandbox).toMatch(
        /^guarded buffers, no new programs, no files \(Landlock \d+\), no new sockets, limited memory$/,
      )
      const client = await TestClient.connect(port)
      await client.ask(Command.DEVICE_COUNT, {})
      for (const pid of processIds()) {
        expect(field(pid, "NoNewPrivs")).toBe("1")
        expect(field(pid, "Seccomp")).toBe("2")
        expect(Number(`0x${field(pid, "CapEff")}`) & ~2).toBe(0)
        expect(limitsOf(pid)).toMatch(/^Max core file size +[01] +[01] /m)
        expect(limitsOf(pid)).toMatch(/^Max address space +\d+ +\d+ /m)
      }
      client.close()
    }))

  test("is told not to be by sandbox: false", () =>
    withServer({ sandbox: false }, async ({ port, processIds, sandbox }) => {
      expect(sandbox).toBe("guarded buffers only (--no-sandbox)")
      const client = await TestClient.connect(port)
      await client.ask(Command.DEVICE_COUNT, {})
      for (const pid of processIds()) expect(field(pid, "NoNewPrivs")).toBe("0")
      client.close()
    }))

  test("that its sandbox ended is reported in words", () =>
    withServer({}, async ({ port, processIds, logged }) => {
      const client = await TestClient.connect(port)
      await client.allocate(4096)
      process.kill(largest(processIds()), "SIGSYS")
      await client.closed
      await logged("session of 127.0.0.1", "died: its sandbox ended it", "SIGSYS")
    }))
})
