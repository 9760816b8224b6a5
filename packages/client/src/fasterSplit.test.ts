import { describe, expect, test } from "bun:test"
import type { GgufFile } from "@ggml-rpc/gguf"
import {
  chooseSplit,
  cutSharesOf,
  type Measured,
  type PlannedSplit,
  workOf,
} from "./fasterSplit.ts"
import type { DevicePlan } from "./planner/index.ts"

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

test("a token takes all weights but the embedding, of experts those that are used, and in a prompt no output layer", () => {
  const weights = [
    tensor("token_embd.weight", [64, 100]),
    tensor("blk.0.attn_q.weight", [64, 64]),
    tensor("blk.0.ffn_up_exps.weight", [64, 32, 8]),
  ]
  const output = tensor("output.weight", [64, 100])
  expect(workOf(gguf([...weights, output]))).toEqual({
    multiplications: 64 * 64 + 64 * 32 * 2,
    weightBytes: 2 * (64 * 64 + 64 * 32 * 2 + 64 * 100),
    hasExperts: true,
    blockCount: 2,
    embeddingLength: 64,
  })
  // Without an output layer the embedding is used for it.
  expect(workOf(gguf(weights))).toEqual(workOf(gguf([...weights, output])))
})

const places = ["a:1", "b:1"]

const device = (name: string, unitCount: number, share?: number): DevicePlan => ({
  ...{ name, firstUnit: 0, unitCount, weightBytes: 1, contextBytes: 1, computeBytes: 1 },
  ...{ freeBytes: 10, totalBytes: 10, freeAfterBytes: 7 },
  ...(share !== undefined && { share }),
})

const planOf = (
  splitMode: "layer" | "tensor",
  change: Partial<PlannedSplit> = {},
): PlannedSplit => ({
  splitMode,
  devices:
    splitMode === "layer"
      ? [device("RPC0", 2), device("RPC1", 1)]
      : [device("RPC0", 3, 0.5), device("RPC1", 3, 0.5)],
  ...{ host: device("CPU", 0), shared: [], leftOut: [], unitCount: 3, contextSize: 512 },
  ...{ places, context: { ubatchSize: 128 } },
  ...change,
})

const work = workOf(gguf([tensor("blk.0.attn_q.weight", [4096, 40960])]))
const speed = {
  weightBytesPerSecond: 10e9,
  multiplicationsPerSecond: 100e9,
  isAtOnce: false,
}
const link = { roundTripMs: 0.05, uploadBytesPerSecond: 1e9, downloadBytesPerSecond: 1e9 }
const measured: Measured = {
  links: places.map((endpoint) => ({ ...link, endpoint })),
  devices: ["RPC0", "RPC1"].map((name) => ({ ...speed, device: name })),
}
const choose = (tensorPlan: PlannedSplit, found: Measured = measured) =>
  chooseSplit(work, planOf("layer"), tensorPlan, found, false)

test("estimates decide where both are possible", () => {
  expect(choose(planOf("tensor"))).toMatchObject({ times: { faster: "tensor" } })
  const far = measured.links.map((each) => ({ ...each, roundTripMs: 50 }))
  expect(choose(planOf("tensor"), { ...measured, links: far })).toMatchObject({
    times: { faster: "layer" },
  })
  const linked = choose(planOf("tensor"))
  const byClient = choose(planOf("tensor"), { ...measured, unlinked: "a:1 makes no links" })
  if (!("times" in linked && "times" in byClient)) throw new Error("no estimate")
  expect(byClient.times.tensor.promptMs).toBeGreaterThan(linked.times.tensor.promptMs)
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

test("a device that others are faster without is named, if they have room for its part", () => {
  const [fast, other] = measured.devices
  const slow = {
    ...{ ...other!, weightBytesPerSecond: 1e9, multiplicationsPerSecond: 10e9 },
  }
  const found = { ...measured, devices: [fast!, slow] }
  const shares = planOf("tensor", {
    devices: [
      { ...device("RPC0", 3, 0.9), weightBytes: 1.8 },
      { ...device("RPC1", 3, 0.1), weightBytes: 0.2 },
    ],
  })
  // Cut in proportion to speed it still helps; links that are slower than it make it a burden.
  expect(choose(shares, found)).not.toHaveProperty("fewer")
  const far = measured.links.map((each) => ({ ...each, roundTripMs: 40 }))
  const choice = choose(shares, { ...found, links: far })
  expect(choice).toMatchObject({ times: { faster: "tensor" }, fewer: { devices: ["RPC0"] } })
  if (!("times" in choice)) throw new Error("no estimate")
  expect(choice.fewer!.time.tokenMs).toBeLessThan(choice.times.tensor.tokenMs)
  const [first, second] = shares.devices
  const full = { ...shares, devices: [{ ...first!, freeAfterBytes: 1 }, second!] }
  expect(choose(full, { ...found, links: far })).not.toHaveProperty("fewer")
})

describe("shares of tensors", () => {
  const sharesOf = (...factors: ReadonlyArray<number>) =>
    cutSharesOf(
      work,
      factors.map((_, index) => `RPC${index}`),
      factors.map((factor, index) => ({
        device: `RPC${index}`,
        ...speed,
        weightBytesPerSecond: speed.weightBytesPerSecond * factor,
        multiplicationsPerSecond: speed.multiplicationsPerSecond * factor,
      })),
    )
  const speedsOf = (...factors: ReadonlyArray<number>) => {
    const shares = sharesOf(...factors)
    if (!("speeds" in shares)) throw new Error(shares.reason)
    return shares.speeds
  }

  test("are the same where devices are as fast, as far as that can be measured", () => {
    expect(speedsOf(1, 1)).toEqual([1, 1])
    expect(speedsOf(1, 0.93, 1.01)).toEqual([1, 1, 1])
  })

  test("follow speed, and stay what they are when it is measured again", () => {
    const [fast, slow] = speedsOf(1, 0.5)
    expect(fast).toBe(1)
    expect(slow!).toBeWithin(0.45, 0.55)
    expect(speedsOf(1.02, 0.49)).toEqual([1, slow!])
    expect(speedsOf(0.01, 1)[0]!).toBeWithin(0.009, 0.011)
  })

  test("are the same where one could not be measured", () => {
    expect(cutSharesOf(work, ["RPC0", "RPC1"], measured.devices.slice(0, 1))).toEqual({
      reason: "how fast RPC1 is could not be measured",
    })
  })
})
