import { expect, test } from "bun:test"
import { formatVersion, versions } from "@ggml-rpc/protocol"
import { fuzz } from "./fuzz.ts"
import { isAlive, waitFor } from "./processes.ts"
import { withServer } from "./withServer.ts"

// A minute of it runs in the end-to-end tests.
const durationMs = 8000
const seed = 20_250_101

const listen = versions.map(({ version }) => ({ port: 0, protocol: formatVersion(version) }))

test("mutated sessions end alone, each with one line at most", () =>
  withServer({ listen, addressLimits: false, logWindowMs: 0 }, async (server) => {
    const started = new Set(server.processIds())
    const pinnedPorts = server.pinned.map(({ endpoint }) => Number(endpoint.split(":").at(-1)))
    const report = await fuzz({ port: server.port, pinnedPorts, seed, durationMs })
    expect(report.protocols.size).toBeGreaterThan(3)
    for (const pid of server.processIds()) started.add(pid)
    expect(report.sessionCount).toBeGreaterThan(10)
    expect(report.endedCount).toBeGreaterThan(report.sessionCount / 4)
    expect(report.witnessRounds).toBeGreaterThan(20)
    await waitFor("all clients are gone", () => server.clientCount() === 0)

    const lines = server.log.filter(({ level }) => level === "error" || level === "warning")
    expect(lines.length).toBeGreaterThan(5)
    const clients = lines.map(({ message }) => message.match(/127\.0\.0\.1:\d+/)?.[0])
    // A port may be used by two clients, one after the other.
    expect(new Set(clients).size).toBeGreaterThan(lines.length * 0.9)
    for (const { message } of lines) expect(message).not.toInclude("\n")
    const running = server.processIds()
    const waiting = [...started].filter((pid) => isAlive(pid) && !running.includes(pid))
    expect(waiting).toEqual([])
  }))
