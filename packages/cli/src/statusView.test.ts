import { expect, test } from "bun:test"
import { ConnectError, type ServerStatus } from "@ggml-rpc/client"
import { formatUptime, type Looked, serverJson, serverLine, serverLines } from "./statusView.ts"

const GIB = 2 ** 30

const plain = { columns: Number.POSITIVE_INFINITY, heading: (text: string) => text }

const ours: ServerStatus = {
  endpoint: "10.0.0.2:50052",
  version: { major: 8, minor: 0, patch: 0 },
  kind: "ggml-rpc",
  address: "10.0.0.2",
  devices: [
    { index: 0, freeBytes: 6 * GIB, totalBytes: 24 * GIB, domain: "ab" },
    { index: 1, freeBytes: 20 * GIB, totalBytes: 32 * GIB },
  ],
  report: {
    software: "0.1.0",
    uptimeMs: 200_000,
    clientCount: 2,
    maxClients: 64,
    servedCount: 17,
    cache: { fileCount: 3, sizeBytes: GIB, limitBytes: 4 * GIB, hits: 5, misses: 2 },
    load: { average: 1.5, coreCount: 8 },
    devices: [
      { name: "CUDA0", description: "NVIDIA GeForce RTX 3090" },
      { name: "CPU", description: "" },
    ],
  },
}

const upstream: ServerStatus = {
  endpoint: "10.0.0.3:50052",
  version: { major: 7, minor: 0, patch: 0 },
  kind: "llama.cpp",
  address: "10.0.0.3",
  devices: [{ index: 0, freeBytes: GIB, totalBytes: 8 * GIB }],
}

const looked = (status: ServerStatus): Looked => ({ endpoint: status.endpoint, status })

const failed: Looked = {
  endpoint: "10.0.0.4:50052",
  error: new ConnectError({ endpoint: "10.0.0.4:50052", reason: "refused", detail: "" }),
}

test("a server tells all of itself", () => {
  expect(serverLines(looked(ours), plain)).toEqual([
    "10.0.0.2:50052",
    "  server   ggml-rpc 0.1.0, protocol 8.0.0",
    "  up       3 min",
    "  clients  2 of at most 64, 17 connections served",
    "  load     1.50 on 8 cores",
    "  cache    3 files, 1.00 GiB of at most 4.00 GiB, 5 of 7 weights found",
    "  CUDA0    6.00 GiB of 24.0 GiB free, NVIDIA GeForce RTX 3090",
    "  CPU      20.0 GiB of 32.0 GiB free",
  ])
})

test("of llama.cpp's, what is known", () => {
  expect(serverLines(looked(upstream), plain)).toEqual([
    "10.0.0.3:50052",
    "  server   llama.cpp, protocol 7.0.0",
    "  device 0 1.00 GiB of 8.00 GiB free",
  ])
})

test.each([60, 40])("no line is wider than %d columns", (columns) => {
  for (const one of [looked(ours), looked(upstream), failed]) {
    const lines = serverLines(one, { ...plain, columns })
    expect(lines.filter((line) => line.length > columns)).toEqual([])
    expect(lines.filter((line) => line.endsWith(" "))).toEqual([])
  }
})

test("one that cannot be reached is there", () => {
  expect(serverLines(failed, plain)).toEqual([
    "10.0.0.4:50052",
    "  server   cannot be used, see below",
  ])
  expect(serverJson(failed)).toMatchObject({ endpoint: "10.0.0.4:50052", error: "ConnectError" })
})

test("a line for a file", () => {
  const now = new Date(Date.UTC(2030, 0, 2, 3, 4, 5))
  expect(serverLine(looked(ours), now)).toBe(
    "2030-01-02T03:04:05Z 10.0.0.2:50052 ggml-rpc 0.1.0, protocol 8.0.0, up 3 min, 2 clients, CUDA0 6.00 GiB free, CPU 20.0 GiB free, load 1.50",
  )
  expect(serverLine(failed, now)).toStartWith(
    "2030-01-02T03:04:05Z 10.0.0.4:50052 cannot be used: Cannot connect",
  )
})

test("as JSON it is data", () => {
  const json = serverJson(looked(ours))
  expect(JSON.parse(JSON.stringify(json))).toEqual(json)
  expect(json).toMatchObject({
    endpoint: "10.0.0.2:50052",
    kind: "ggml-rpc",
    protocol: "8.0.0",
    clientCount: 2,
    cache: { hits: 5 },
    devices: [{ name: "CUDA0", freeBytes: 6 * GIB, memory: "ab" }, { name: "CPU" }],
  })
  expect(serverJson(looked(upstream))).toEqual({
    endpoint: "10.0.0.3:50052",
    kind: "llama.cpp",
    protocol: "7.0.0",
    devices: [{ freeBytes: GIB, totalBytes: 8 * GIB }],
  })
})

test.each([
  [900, "0 s"],
  [59_999, "59 s"],
  [200_000, "3 min"],
  [7_500_000, "2 h 5 min"],
  [360_000_000, "4 d 4 h"],
])("%d ms are %s", (ms, text) => {
  expect(formatUptime(ms)).toBe(text)
})
