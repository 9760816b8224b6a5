import { expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { ensureSource } from "@ggml-rpc/native/source"
import { type BenchRow, fieldsOf, jsonOf, ratesOf, statisticsOf } from "./rows.ts"

const row: BenchRow = {
  setting: {
    path: "model.gguf",
    gpuLayers: -1,
    splitMode: "tensor",
    wire: "f32",
    tensorSplit: [3, 1],
    batchSize: 2048,
    ubatchSize: 512,
    typeK: "f16",
    typeV: "q8_0",
    flashAttention: "on",
    threads: 2,
  },
  test: { promptCount: 0, textCount: 10, depth: 0, parallel: 4 },
  name: "tg10",
  ubatchSize: 512,
  model: { type: "llama 8B Q4_0", sizeBytes: 5e9, parameters: 8e9 },
  backends: "RPC",
  devices: ["10.0.0.2:50052", "10.0.0.3:50052"],
  descriptions: ["10.0.0.2:50052", "10.0.0.3:50052"],
  testTime: "2026-01-01T00:00:00Z",
  samplesNs: [1e9, 2e9, 4e9],
  links: [
    { endpoint: "10.0.0.2:50052", sentBytes: 100, receivedBytes: 8, writes: 0.25, waits: 0.25 },
    { endpoint: "10.0.0.3:50052", sentBytes: 50, receivedBytes: 16, writes: 0.25, waits: 0.5 },
  ],
}

test("rates are those of all texts together", () => {
  expect(ratesOf(row)).toEqual([40, 20, 10])
  // As a sample's: the squares are divided by one less than there are.
  const { mean, deviation } = statisticsOf([40, 20, 10])
  expect(mean).toBeCloseTo(23.333, 3)
  expect(deviation).toBeCloseTo(15.275, 3)
  expect(statisticsOf([5])).toEqual({ mean: 5, deviation: 0 })
})

test("fields are llama-bench's, all of them in its order, and then ours, about links and texts", async () => {
  const source = readFileSync(
    join(await ensureSource(), "tools", "llama-bench", "llama-bench.cpp"),
    "utf8",
  )
  const list = /get_fields\(\) \{[^}]*fields = \{([^}]*)\}/.exec(source)![1]!
  const upstream = [...list.matchAll(/"(\w+)"/g)].map(([, name]) => name!)
  expect(upstream.length).toBeGreaterThan(30)
  expect(Object.keys(fieldsOf(row))).toEqual([
    ...upstream,
    "n_parallel",
    "wire",
    "sent_bytes_per_token",
    "received_bytes_per_token",
    "writes_per_token",
    "waits_per_token",
  ])
  expect(fieldsOf(row)).toMatchObject({
    ...{ flash_attn: 1, split_mode: "tensor", tensor_split: "3.00/1.00", n_gen: 10, n_parallel: 4 },
    ...{ avg_ns: 2_333_333_333, devices: "10.0.0.2:50052/10.0.0.3:50052" },
    ...{ sent_bytes_per_token: 150, received_bytes_per_token: 24 },
    ...{ writes_per_token: 0.5, waits_per_token: 0.75 },
    ...{ tensor_buft_overrides: "none", poll: 50, embeddings: false, n_cpu_moe: 0 },
    build_commit: expect.stringMatching(/^[0-9a-f]{7,40}$/),
  })
  expect(Object.values(fieldsOf(row))).not.toContain(undefined)
  const unsplit = { ...row, setting: { ...row.setting, tensorSplit: undefined } }
  expect(fieldsOf(unsplit).tensor_split).toBe("0.00")
})

test("JSON has each link, with its speed where that is known", () => {
  const speeds = [
    { endpoint: "10.0.0.3:50052", roundTripMs: 0.2, uploadBytesPerSecond: 1e9 },
    { endpoint: "10.0.0.9:50052", roundTripMs: 7 },
  ]
  const { links, samples_ts } = jsonOf(row, speeds)
  expect(samples_ts).toEqual([40, 20, 10])
  expect(
    links.map((link) => [link.endpoint, link.round_trip_ms, link.upload_bytes_per_second]),
  ).toEqual([
    ["10.0.0.2:50052", null, null],
    ["10.0.0.3:50052", 0.2, 1e9],
  ])
  expect(links[1]).toMatchObject({ download_bytes_per_second: null, waits_per_token: 0.5 })
})
