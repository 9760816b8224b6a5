/** The watcher of `@ggml-rpc/native`, in processes of their own: it ends them. */
import { describe, expect, test } from "bun:test"
import { io, socketPair } from "@ggml-rpc/native/bindings"

const imports = `
  import { read } from "bun:ffi"
  import { asPointer, io, socketPair } from "@ggml-rpc/native/bindings"`

const text = (block: Uint8Array): string => new TextDecoder().decode(block)

describe("watching", () => {
  /** Runs the body of a script that has `io` and the other end of a pair at descriptor 3. */
  const child = (body: string, other: number) =>
    Bun.spawn([process.execPath, "-e", `${imports}${body}`], {
      cwd: import.meta.dir,
      stdio: ["ignore", "pipe", "inherit", other],
      timeout: 30_000,
    })

  test("a parent that goes ends a process inside a blocking call", async () => {
    const [ours, theirs] = socketPair()
    const process = child(
      `
      if (io().io_watch_parent(3) !== 0) throw new Error("not watched")
      if (io().io_watch_parent(3) >= 0) throw new Error("watched twice")
      const [, silent] = socketPair()
      console.log("blocking")
      io().io_recv(silent, new Uint8Array(1), 1)`,
      theirs,
    )
    const reader = process.stdout.getReader()
    expect(text((await reader.read()).value!)).toContain("blocking")
    io().io_close(theirs)
    io().io_close(ours)
    expect(await process.exited).toBe(0)
  })

  test("a client that goes raises the flag, and a descriptor closed here does not spin", async () => {
    const [ours, theirs] = socketPair()
    const process = child(
      `
      const flag = asPointer(Number(io().io_abort_flag()))
      if (io().io_watch_parent(-1) !== 0) throw new Error("not watched")
      const [, silent] = socketPair()
      const [closedHere] = socketPair()
      io().io_watch_client(closedHere)
      io().io_close(closedHere)
      io().io_watch_client(closedHere)
      await Bun.sleep(50)
      const before = globalThis.process.cpuUsage()
      io().io_wait_readable(silent, 500)
      const { user, system } = globalThis.process.cpuUsage(before)
      if (user + system > 100_000) throw new Error("the watcher spins")
      if (read.i32(flag, 0) !== 0) throw new Error("raised for nothing")
      io().io_watch_client(3)
      io().io_send(3, new Uint8Array(1), 1)
      io().io_wait_readable(3, 10_000)
      // Still there, only silent: the flag stays down until the other end goes.
      const deadline = performance.now() + 10_000
      while (read.i32(flag, 0) === 0 && performance.now() < deadline) io().io_wait_readable(silent, 5)
      const raised = read.i32(flag, 0)
      io().io_watch_client(-1)
      console.log("flag", raised)`,
      theirs,
    )
    io().io_close(theirs)
    const block = new Uint8Array(1)
    expect(io().io_recv(ours, block, 1)).toBe(1)
    io().io_close(ours)
    expect(await process.stdout.text()).toContain("flag 1")
    expect(await process.exited).toBe(0)
  })

  test("a client that goes while nobody looks ends the process after a second", async () => {
    const [ours, theirs] = socketPair()
    const process = child(
      `
      io().io_watch_parent(-1)
      io().io_watch_client(3)
      const [, silent] = socketPair()
      console.log("blocking")
      io().io_recv(silent, new Uint8Array(1), 1)`,
      theirs,
    )
    io().io_close(theirs)
    const reader = process.stdout.getReader()
    expect(text((await reader.read()).value!)).toContain("blocking")
    io().io_close(ours)
    expect(await process.exited).toBe(3)
  })
})
