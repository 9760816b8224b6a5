/** What a server tells whoever watches it. */
import { expect, test } from "bun:test"
import { Command } from "@ggml-rpc/protocol"
import { f32Tensor, TestClient } from "./TestClient.ts"
import { withServer } from "./withServer.ts"

const numberOf = (text: string, name: string): number => {
  const line = text.split("\n").find((candidate) => candidate.startsWith(`${name} `))
  if (line === undefined) throw new Error(`no ${name} in:\n${text}`)
  return Number(line.slice(name.length + 1))
}

test("clients, how they ended, bytes and times of their requests", () =>
  withServer({ metrics: { port: 0 } }, async ({ port, metricsEndpoint, devices }) => {
    const ask = async (): Promise<string> =>
      (await fetch(`http://${metricsEndpoint}/metrics`)).text()
    const before = await ask()
    expect(numberOf(before, "ggml_rpc_clients")).toBe(0)
    expect(numberOf(before, "ggml_rpc_sessions_total")).toBe(0)
    expect(before).not.toContain("ggml_rpc_cache_bytes")
    const [device] = devices
    const memory = `ggml_rpc_device_memory_bytes{device="${device!.name}",index="0"}`
    expect(numberOf(before, memory)).toBe(device!.totalBytes)

    const client = await TestClient.connect(port)
    const buffer = await client.allocate(4096)
    const tensor = f32Tensor(1, buffer, 0, [1024])
    client.setTensor(tensor, new Uint8Array(4096), 0, 0)
    await client.getTensor(tensor, 4096)
    expect(numberOf(await ask(), "ggml_rpc_clients")).toBe(1)
    client.close()
    const bad = await TestClient.connect(port)
    bad.send(Command.FREE_BUFFER, { remotePtr: 99n })
    await bad.closed

    const count = (name: string): string => `ggml_rpc_request_seconds_count{command="${name}"}`
    let after = ""
    for (let tries = 0; tries < 400 && !after.includes(count("GET_TENSOR")); tries++) {
      await Bun.sleep(25)
      after = await ask()
    }
    expect(numberOf(after, count("GET_TENSOR"))).toBe(1)
    expect(numberOf(after, count("SET_TENSOR"))).toBe(1)
    expect(numberOf(after, `ggml_rpc_request_seconds_bucket{command="SET_TENSOR",le="+Inf"}`)).toBe(
      1,
    )
    expect(numberOf(after, "ggml_rpc_received_bytes_total")).toBeGreaterThan(4096)
    expect(numberOf(after, "ggml_rpc_sent_bytes_total")).toBeGreaterThan(4096)
    expect(numberOf(after, `ggml_rpc_connections_ended_total{outcome="refused"}`)).toBe(1)
    expect(numberOf(after, `ggml_rpc_connections_ended_total{outcome="left"}`)).toBe(1)
    expect(numberOf(after, "ggml_rpc_sessions_total")).toBe(2)
    // Each metric with its help and type, and every line of the format.
    for (const line of after.trimEnd().split("\n")) {
      expect(line).toMatch(/^(# (HELP|TYPE) ggml_rpc_\w+ .+|ggml_rpc_\w+(\{[^}]+\})? [\d.e+-]+)$/)
    }
  }))

test("health, and nothing else", () =>
  withServer({ metrics: { port: 0 } }, async ({ metricsEndpoint }) => {
    const health = await fetch(`http://${metricsEndpoint}/healthz`)
    expect([health.status, await health.text()]).toEqual([200, "ok\n"])
    expect((await fetch(`http://${metricsEndpoint}/other`)).status).toBe(404)
  }))

test("a port that is taken is told", () =>
  withServer({}, async ({ port }) => {
    await expect(withServer({ metrics: { port } }, async () => {})).rejects.toThrow(
      `127.0.0.1:${port} is in use`,
    )
  }))
