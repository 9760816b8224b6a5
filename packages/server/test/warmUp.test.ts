/** Session processes that warm up when nobody wants them: within their walls, and not when somebody does. */
import { describe, expect, test } from "bun:test"
import { readdirSync, readlinkSync } from "node:fs"
import { loadBackends } from "@ggml-rpc/native/bindings"
import { Command } from "@ggml-rpc/protocol"
import { ServedDevice, selectDevices } from "../src/session/memory/devices.ts"
import { WarmUp } from "../src/session/warmUp.ts"
import { computeOnce } from "./graphs.ts"
import { waitFor } from "./processes.ts"
import { TestClient } from "./TestClient.ts"
import { withServer } from "./withServer.ts"

const descriptorsOf = (pid: number): readonly string[] =>
  readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`)
    } catch {
      return []
    }
  })

/** Sockets of a process: to the front, and those of clients of its own that it has not served yet. */
const socketCount = (pid: number): number =>
  descriptorsOf(pid).filter((target) => target.startsWith("socket:")).length

/** Connections come over one; what it says, and what ggml says, are the others. */
const FRONT_SOCKETS = 3

const devices = (): readonly ServedDevice[] => {
  loadBackends(0)
  const selected = selectDevices(["CPU"])
  if ("unknown" in selected) throw new Error("no CPU")
  return selected.devices.map((device) => new ServedDevice(device, 1, { mapsFiles: false }))
}

const unexpected = (error: unknown): never => {
  throw error
}

describe("a warm-up", () => {
  test("stops where somebody wants the process, and goes on from there", () => {
    const before = socketCount(process.pid)
    const warmUp = new WarmUp(devices(), unexpected)
    warmUp.run(() => true)
    const made = socketCount(process.pid)
    expect(made).toBeGreaterThan(before)
    // Checks of graphs come first, then clients.
    for (let slices = 0; socketCount(process.pid) === made; slices++) {
      expect(slices).toBeLessThan(100)
      let isWanted = false
      warmUp.run(() => {
        const was = isWanted
        isWanted = true
        return was
      })
    }
    expect(socketCount(process.pid)).toBe(made - 2)
    expect(warmUp.isDone).toBe(false)
    warmUp.run(() => false)
    expect(warmUp.isDone).toBe(true)
    expect(socketCount(process.pid)).toBe(before)
  })

  test("that fails is over, and told of once", () => {
    const before = socketCount(process.pid)
    const full = devices()
    for (const device of full) device.hasMemoryFor = () => false
    const told: unknown[] = []
    const warmUp = new WarmUp(full, (error) => told.push(error))
    warmUp.run(() => false)
    expect(told).toMatchObject([{ _tag: "ProtocolError" }])
    expect(warmUp.isDone).toBe(true)
    expect(socketCount(process.pid)).toBe(before)
    warmUp.run(() => false)
    expect(told).toHaveLength(1)
  })

  test("that nobody needs any more leaves nothing open", () => {
    const before = socketCount(process.pid)
    const warmUp = new WarmUp(devices(), unexpected)
    expect(socketCount(process.pid)).toBeGreaterThan(before)
    warmUp.drop()
    expect(warmUp.isDone).toBe(true)
    expect(socketCount(process.pid)).toBe(before)
  })
})

describe("a server's process", () => {
  test("warms up within its walls, and serves", () =>
    withServer({ warmup: true }, async (server) => {
      const [pid] = server.processIds()
      await waitFor("its warm-up", () => socketCount(pid!) === FRONT_SOCKETS)
      const client = await TestClient.connect(server.port)
      await computeOnce(client)
      expect(await server.logged("connected")).toContain(String(pid))
      expect(socketCount(pid!)).toBe(FRONT_SOCKETS + 1)
      client.close()
      await server.logged("left")
      expect(server.log.filter(({ level }) => level !== "info")).toEqual([])
    }))

  test("serves who comes before it has", () =>
    withServer({ warmup: true }, async (server) => {
      const [pid] = server.processIds()
      const client = await TestClient.connect(server.port)
      expect(socketCount(pid!)).toBeGreaterThan(FRONT_SOCKETS + 1)
      // No other client comes behind one that has computed.
      await computeOnce(client)
      expect(socketCount(pid!)).toBe(FRONT_SOCKETS + 1)
      client.close()
      await server.logged("left")
    }))

  test("warms up after a client that left nothing behind", () =>
    withServer({ warmup: true }, async (server) => {
      const [pid] = server.processIds()
      const first = await TestClient.connect(server.port)
      await first.ask(Command.DEVICE_COUNT, {})
      first.close()
      await server.logged("left")
      await waitFor("its warm-up", () => socketCount(pid!) === FRONT_SOCKETS)
      const second = await TestClient.connect(server.port)
      await computeOnce(second)
      expect(server.processIds()).toContain(pid!)
      second.close()
    }))
})
