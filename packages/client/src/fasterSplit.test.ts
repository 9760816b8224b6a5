import { expect, test } from "bun:test"
import type { GgufFile } from "@ggml-rpc/gguf"
import { chooseSplit, type Measured, workOf } from "./fasterSplit.ts"
import type { DevicePlan, Plan } from "./planner/index.ts"

const tensor = (name: string, ne: ReadonlyArray<number>) => {
  const elements = ne.reduce((product, count) => product * count, 1)
  return { name, ne, sizeBytes: elements * 2 }
}

const integer = (value: number) => ({ type: "uint32", value }) as const

const gguf = (tensors: ReadonlyArray<ReturnType<typeof tensor>>): GgufFile =>
  ({
    metadata: new Map<string, unknown>([
      ["general.architecture", { type: "string", value: "llama" }],
      ["llama.block_count", integer(2)],
      ["llama.embedding_length", integer(64)],
      ["llama.expert_count", integer(8)],
      ["llama.expert_used_count", integer(2)],
    ]),
    tensors,
  }) as unknown as GgufFile

test("a token takes all weights but the embedding, and of experts those that are used", () => {
  const weights = [
    tensor("token_embd.weight", [64, 100]),
    tensor("blk.0.attn_q.weight", [64, 64]),
    tensor("blk.0.ffn_up_exps.weight", [64, 32, 8]),
  ]
  const output = tensor("output.weight", [64, 100])
  expect(workOf(gguf([...weights, output]))).toEqual({
    multiplications: 64 * 64 + 64 * 32 * 2 + 64 * 100,
    weightBytes: 2 * (64 * 64 + 64 * 32 * 2 + 64 * 100),
    blockCount: 2,
    hiddenBytes: 4 * 64,
  })
  // Without an output layer the embedding is used for it.
  expect(workOf(gguf(weights))).toEqual(workOf(gguf([...weights, output])))
})

const device = (name: string, unitCount: number, share?: number): DevicePlan => ({
  ...{ name, firstUnit: 0, unitCount, weightBytes: 1, contextBytes: 1, computeBytes: 1 },
  ...{ freeBytes: 10, totalBytes: 10, freeAfterBytes: 7 },
  ...(share !== undefined && { share }),
})

const planOf = (splitMode: "layer" | "tensor", change: Partial<Plan> = {}): Plan => ({
  splitMode,
  devices:
    splitMode === "layer"
      ? [device("RPC0", 2), device("RPC1", 1)]
      : [device("RPC0", 3, 0.5), device("RPC1", 3, 0.5)],
  ...{ host: device("CPU", 0), shared: [], leftOut: [], unitCount: 3, contextSize: 512 },
  ...change,
})

const work = workOf(gguf([tensor("blk.0.attn_q.weight", [4096, 40960])]))
const places = ["a:1", "b:1"]
const speed = { weightBytesPerSecond: 10e9, multiplicationsPerSecond: 100e9 }
const link = { roundTripMs: 0.05, uploadBytesPerSecond: 1e9, downloadBytesPerSecond: 1e9 }
const measured: Measured = {
  links: places.map((endpoint) => ({ ...link, endpoint })),
  devices: ["RPC0", "RPC1"].map((name) => ({ ...speed, device: name })),
  isLinkable: true,
}
const choose = (tensorPlan: Plan, found: Measured = measured) =>
  chooseSplit(work, planOf("layer"), tensorPlan, places, found)

test("estimates decide where both are possible", () => {
  expect(choose(planOf("tensor"))).toMatchObject({ times: { faster: "tensor" } })
  const far = measured.links.map((each) => ({ ...each, roundTripMs: 50 }))
  expect(choose(planOf("tensor"), { ...measured, links: far })).toMatchObject({
    times: { faster: "layer" },
  })
})

test("layers are split where cutting costs something else, or a speed is not known", () => {
  expect(choose(planOf("layer"))).toEqual({ reason: "there is one device" })
  expect(choose(planOf("tensor", { host: device("CPU", 1) }))).toMatchObject({
    reason: expect.stringContaining("CPU"),
  })
  expect(choose(planOf("tensor", { contextSize: 256 }))).toMatchObject({
    reason: expect.stringContaining("shorter context"),
  })
  const unknown = { ...measured, devices: measured.devices.slice(0, 1) }
  expect(choose(planOf("tensor"), unknown)).toEqual({
    reason: "how fast RPC1 is could not be measured",
  })
})
