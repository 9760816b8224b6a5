import { describe, expect, setDefaultTimeout, test } from "bun:test"
import { groupMembers, ProcessError, runProcess, startProcess, startServer } from "./process.ts"

setDefaultTimeout(30_000)

const script = (code: string): string[] => [process.execPath, "-e", code]
const listenOn = (port: number): string[] =>
  script(`Bun.listen({ hostname: "127.0.0.1", port: ${port}, socket: { data() {} } })`)

const alive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

describe("startProcess", () => {
  test("gives output and exit code, and 128 plus the signal for a killed one", async () => {
    const result = await runProcess(["sh", "-c", "cat; echo oops >&2; exit 3"], { stdin: "in" })
    expect(result).toEqual({ exitCode: 3, stdout: "in", stderr: "oops\n" })
    await using child = startProcess(["sleep", "100"])
    child.signal("SIGKILL")
    expect(await child.exited).toBe(137)
  })

  test("stop ends a process that ignores SIGTERM, and is harmless when called again", async () => {
    const child = startProcess([
      "sh",
      "-c",
      "trap '' TERM; echo ready; while :; do sleep 0.05; done",
    ])
    while (!child.stdout().includes("ready")) await Bun.sleep(10)
    await child.stop(200)
    expect(alive(child.pid)).toBe(false)
    expect(groupMembers(child.pid)).toEqual([])
    expect(await child.exited).toBe(137)
    await child.stop()
  })

  test("stop names a process that outlived its parent, and ends it", async () => {
    const child = startProcess(["sh", "-c", "sleep 91 & echo $!"])
    await child.exited
    const orphan = Number(child.stdout())
    expect(alive(orphan)).toBe(true)
    const failure = await child.stop(100).catch((error) => error)
    expect(failure).toBeInstanceOf(ProcessError)
    expect(failure.reason).toBe("left-behind")
    expect(failure.message).toContain("sleep 91")
    expect(groupMembers(child.pid)).toEqual([])
  })

  test("runProcess kills what takes too long and shows what it printed", async () => {
    const failure = await runProcess(["sh", "-c", "echo so far; sleep 92"], {
      timeoutMs: 300,
    }).catch((error) => error)
    expect(failure).toBeInstanceOf(ProcessError)
    expect(failure.reason).toBe("timeout")
    expect(failure.message).toContain("so far")
  })
})

describe("startServer", () => {
  test("two at once listen on ports of their own and are gone after their scope", async () => {
    const pids: number[] = []
    {
      await using first = await startServer(listenOn)
      await using second = await startServer(listenOn)
      pids.push(first.pid, second.pid)
      expect(first.port).not.toBe(second.port)
      const socket = await Bun.connect({
        hostname: "127.0.0.1",
        port: second.port,
        socket: { data() {} },
      })
      socket.end()
    }
    expect(pids.map(alive)).toEqual([false, false])
  })

  test("another process on the port is not taken for the server: it tries the next port", async () => {
    const squatters: Array<{ stop: (force: boolean) => void; port: number }> = []
    await using server = await startServer((port) => {
      if (squatters.length === 0) {
        squatters.push(Bun.listen({ hostname: "127.0.0.1", port, socket: { data() {} } }))
      }
      return listenOn(port)
    })
    const [squatter] = squatters
    squatter?.stop(true)
    expect(squatter?.port).toBeGreaterThan(0)
    expect(server.port).not.toBe(squatter?.port)
  })

  test("a server that cannot start is reported with its output", async () => {
    const failure = await startServer(() => ["sh", "-c", "echo no devices; exit 1"]).catch(
      (error) => error,
    )
    expect(failure).toBeInstanceOf(ProcessError)
    expect(failure.reason).toBe("exited")
    expect(failure.message).toContain("exit code 1")
    expect(failure.message).toContain("no devices")
  })

  test("a server that does not listen is reported and ended", async () => {
    const failure = await startServer(() => ["sleep", "93"], { timeoutMs: 200 }).catch(
      (error) => error,
    )
    expect(failure).toBeInstanceOf(ProcessError)
    expect(failure.reason).toBe("timeout")
  })
})
