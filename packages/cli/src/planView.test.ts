import { expect, test } from "bun:test"
import type { Cluster, DevicePlan } from "@ggml-rpc/client"
import {
  formatBreakdown,
  formatLayers,
  formatPlanTable,
  formatPlanTitle,
  planJson,
  planNotes,
} from "./planView.ts"

const MiB = 1024 * 1024

test.each([
  [0, 4, 9, "0–3"],
  [4, 5, 9, "4–7, output"],
  [5, 1, 9, "5"],
  [7, 2, 9, "7, output"],
  [8, 1, 9, "output"],
  [8, 0, 9, "–"],
  [0, 9, 9, "0–7, output"],
  [0, 1, 1, "output"],
])("units from %d, %d of %d, are %s", (first, count, unitCount, text) => {
  expect(formatLayers(first, count, unitCount)).toBe(text)
})

const device = (name: string, firstUnit: number, unitCount: number): DevicePlan => ({
  name,
  firstUnit,
  unitCount,
  weightBytes: unitCount * MiB,
  contextBytes: 2 * MiB,
  computeBytes: 3 * MiB,
  freeBytes: 100 * MiB,
  totalBytes: 200 * MiB,
  freeAfterBytes: 80 * MiB,
})

const plan: Cluster.ModelPlan = {
  devices: [device("RPC0", 1, 4), device("RPC1", 5, 4)],
  host: device("CPU", 0, 1),
  splitMode: "layer",
  unitCount: 9,
  contextSize: 24_576,
  path: "model.gguf",
  architecture: "llama",
  name: "Tiny",
  modelBytes: 9 * MiB,
  // Not shown.
  context: {} as Cluster.ModelPlan["context"],
  model: { mmap: true },
  deviceIndexes: [0, 1],
  places: ["10.0.0.2:50052", "[fd00::3]:50052"],
  shared: [],
  leftOut: [],
  unsupported: [],
  exactServers: [],
}

test("the table shows where each layer goes, and what stays", () => {
  expect(formatPlanTable(plan)).toBe(
    [
      "device  place            layers        weights  KV cache   compute  free after",
      "RPC0    10.0.0.2:50052   1–4          4.00 MiB  2.00 MiB  3.00 MiB    80.0 MiB",
      "RPC1    [fd00::3]:50052  5–7, output  4.00 MiB  2.00 MiB  3.00 MiB    80.0 MiB",
      "CPU     local            input, 0     1.00 MiB  2.00 MiB  3.00 MiB    80.0 MiB",
    ].join("\n"),
  )
})

test("the table shows how much of each tensor a device has, where tensors are cut", () => {
  const devices = [
    { ...device("RPC0", 1, 8), share: 0.25 },
    { ...device("RPC1", 1, 8), share: 0.75 },
  ]
  const cut = { ...plan, splitMode: "tensor", devices } as const
  const rows = formatPlanTable(cut).split("\n")
  expect(rows[1]).toContain("25% of 1–7, output")
  expect(rows[2]).toContain("75% of 1–7, output")
  expect(planJson(cut)).toMatchObject({
    splitMode: "tensor",
    devices: [{ share: 0.25 }, { share: 0.75 }],
  })
})

test("a choice between layers and tensors is told with both estimates, or with its reason", () => {
  const times = {
    layer: { tokenMs: 12, promptMs: 2000 },
    tensor: { tokenMs: 7.25, promptMs: 1100 },
    faster: "tensor",
  } as const
  expect(planNotes({ ...plan, choice: { times } })).toEqual([
    "tensors are cut, by an estimate: layers 12.0 ms a token and 2.00 s for a prompt of 512, tensors 7.3 ms a token and 1.10 s for a prompt of 512",
  ])
  const choice = { reason: "there is one device" }
  expect(planNotes({ ...plan, choice })).toEqual(["layers are split: there is one device"])
  expect(planJson({ ...plan, choice }).choice).toEqual(choice)
})

test("by what tensors were shared out is told, and that a device would better be left out", () => {
  const cut = (speeds: ReadonlyArray<number>, shares: ReadonlyArray<number>) =>
    planNotes({
      ...{ ...plan, splitMode: "tensor", cutShares: { speeds } },
      devices: plan.devices.map((each, at) => ({ ...each, share: shares[at]! })),
    })
  expect(cut([1, 1], [0.5, 0.5])).toEqual([
    "tensors are cut in equal parts: devices multiply equally fast",
  ])
  expect(cut([1, 0.25], [0.8, 0.2])).toEqual([
    "tensors are cut by how fast devices multiply, the fastest 1: RPC0 1.00, RPC1 0.25",
  ])
  expect(cut([1, 0.25], [0.5, 0.5])).toEqual([
    "tensors are cut by how fast devices multiply, the fastest 1: RPC0 1.00, RPC1 0.25; RPC0 has no memory for that much",
  ])
  const reason = "devices of this machine are not measured"
  expect(planNotes({ ...plan, cutShares: { reason } })).toEqual([
    `tensors are cut in equal parts, as far as memory goes: ${reason}`,
  ])
  const time = { tokenMs: 12, promptMs: 2000 }
  const choice = {
    times: { layer: time, tensor: { tokenMs: 14, promptMs: 2100 }, faster: "layer" },
    fewer: { devices: ["RPC0"], time: { tokenMs: 5, promptMs: 900 } },
  } as const
  expect(planNotes({ ...plan, choice })[1]).toBe(
    "it would be faster with RPC0 alone, by the estimate: 5.0 ms a token and 0.90 s for a prompt of 512 (--device RPC0)",
  )
  expect(planJson({ ...plan, choice, cutShares: { speeds: [1, 1] } })).toMatchObject({
    ...{ choice, cutShares: { speeds: [1, 1] } },
  })
})

test("memory that several devices draw from is told, in lines that fit", () => {
  expect(planNotes(plan)).toEqual([])
  const shared = [{ devices: ["RPC0", "RPC1"], hasHost: true, freeBytes: 100 * MiB }]
  expect(planNotes({ ...plan, shared })).toEqual([
    "RPC0, RPC1 and this host share one memory: its 100 MiB free are counted once",
  ])
  const narrow = planNotes({ ...plan, shared }, 60)
  expect(narrow).toHaveLength(2)
  expect(narrow.every((line) => line.length <= 60)).toBe(true)
})

test("the title names the model, and a context that had to shrink", () => {
  expect(formatPlanTitle(plan)).toBe("Tiny: llama, 8 layers, 9.00 MiB, context 24576")
  expect(formatPlanTitle({ ...plan, wantedContextSize: 131_072 })).toBe(
    "Tiny: llama, 8 layers, 9.00 MiB\ncontext 131072 → 24576: that is what fits",
  )
})

test("the breakdown adds up what was really taken", () => {
  const use = { weightBytes: MiB, contextBytes: 2 * MiB, computeBytes: 4 * MiB }
  const table = formatBreakdown(plan, {
    devices: [use, use],
    host: use,
    hostFileLayoutBytes: 0,
  })
  expect(table.split("\n")[2]).toBe(
    "RPC1    [fd00::3]:50052  1.00 MiB  2.00 MiB  4.00 MiB  7.00 MiB",
  )
})

test("as JSON it is data, in bytes", () => {
  const json = planJson(plan)
  expect(json.model).toEqual({
    path: "model.gguf",
    architecture: "llama",
    name: "Tiny",
    sizeBytes: 9 * MiB,
    layerCount: 8,
  })
  expect(json.devices[1]).toMatchObject({
    name: "RPC1",
    place: "[fd00::3]:50052",
    layers: "5–7, output",
    weightBytes: 4 * MiB,
  })
  expect(json.host).toMatchObject({ place: "local", unitCount: 1, layers: "input, 0" })
  expect(JSON.parse(JSON.stringify(json))).toEqual(json)
})
