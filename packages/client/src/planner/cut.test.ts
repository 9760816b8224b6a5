import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import { PlanError } from "../errors.ts"
import type { Candidate, Measurement, PlannerInput } from "./index.ts"
import {
  device,
  GIB,
  inputOf,
  largeModel,
  MIB,
  planErrorOf,
  planWith,
} from "./madeUp.testHelper.ts"

/** A model as libllama cuts it: shares are rounded to whole heads, and some tensors are on each device whole. */
const large = { ...largeModel, wholeBytes: 20 * MIB, headCount: 8 }

const rounded = (shares: ReadonlyArray<number>, steps: number): ReadonlyArray<number> => {
  let before = 0
  let upTo = 0
  return shares.map((share, index) => {
    upTo += share
    const end = index === shares.length - 1 ? steps : Math.floor(upTo * steps + 1e-9)
    const part = end - before
    before = end
    return part / steps
  })
}

const measure = (model: typeof large, candidate: Candidate): Measurement => {
  const { contextSize, shares = [], unitCounts } = candidate
  const units = Math.max(...unitCounts)
  const onDevices = model.unitBytes.slice(model.unitBytes.length - units)
  const weights = onDevices.reduce((a, b) => a + b, 0)
  const blocks = Math.max(0, units - 1)
  const weightsOnHost = model.unitBytes.reduce((a, b) => a + b, 0) - weights
  return {
    devices: rounded(shares, model.headCount).map((part, index) =>
      unitCounts[index] === 0
        ? { weightBytes: 0, contextBytes: 0, computeBytes: 0 }
        : {
            weightBytes: weights * part + model.wholeBytes,
            contextBytes: blocks * model.kvBytes * contextSize * part,
            computeBytes: model.computeBytes,
          },
    ),
    host: { weightBytes: weightsOnHost + 250 * MIB, contextBytes: 0, computeBytes: 10 * MIB },
    hostFileLayoutBytes: weightsOnHost + 250 * MIB,
  }
}

const planFor = (overrides: Partial<PlannerInput> = {}) =>
  planWith(inputOf(large, { cutsTensors: true, ...overrides }), (candidate) =>
    measure(large, candidate),
  )

const errorFor = (overrides: Partial<PlannerInput>): PlanError =>
  planErrorOf(() => planFor(overrides))

describe("tensors that are cut", () => {
  test("are cut in equal parts, with one measurement, and every device has all layers", () => {
    const { plan, candidates } = planFor()
    expect(candidates).toHaveLength(1)
    expect(plan.splitMode).toBe("tensor")
    for (const { firstUnit, share, unitCount } of plan.devices) {
      expect({ firstUnit, share, unitCount }).toEqual({ firstUnit: 0, share: 0.5, unitCount: 33 })
    }
    expect(plan.host.unitCount).toBe(0)
  })

  test("follow --tensor-split, and leave a device with a share of 0 out", () => {
    const devices = [device("RPC0", 8 * GIB), device("RPC1", 8 * GIB), device("RPC2", 8 * GIB)]
    const { plan } = planFor({ devices, tensorSplit: [3, 0, 1] })
    expect(plan.devices.map(({ share }) => share)).toEqual([0.75, 0, 0.25])
    expect(plan.devices.map(({ unitCount }) => unitCount)).toEqual([33, 0, 33])
  })

  test("give a device less that has less memory", () => {
    const { plan } = planFor({ devices: [device("RPC0", 2.5 * GIB), device("RPC1", 8 * GIB)] })
    const [first, second] = plan.devices
    expect(first!.share!).toBeLessThan(0.4)
    expect(first!.share! + second!.share!).toBeCloseTo(1)
    expect(first!.freeAfterBytes).toBeGreaterThanOrEqual(64 * MIB)
    expect(plan.host.unitCount).toBe(0)
  })

  test("are cut in proportion to speed", () => {
    const { plan, candidates } = planFor({ speeds: [1, 0.5] })
    expect(candidates).toHaveLength(1)
    const [first, second] = plan.devices
    expect(first!.share! / second!.share!).toBeCloseTo(2)
    expect(planFor({ speeds: [1, 0.5], tensorSplit: [1, 3] }).plan.devices[0]!.share).toBe(0.25)
  })

  test("go to the fastest with room, where one has no memory for its share", () => {
    const devices = [
      ...[device("RPC0", 3 * GIB), device("RPC1", 8 * GIB), device("RPC2", 12 * GIB)],
      device("RPC3", 0),
    ]
    const { plan } = planFor({ devices, speeds: [8, 4, 1, 8] })
    const [full, second, slow, empty] = plan.devices
    expect(full!.share!).toBeLessThan(8 / 13 - 0.1)
    expect(full!.freeAfterBytes).toBeGreaterThanOrEqual(64 * MIB)
    // Two of those with room stay in proportion, whatever memory they have.
    expect(second!.share! / slow!.share!).toBeWithin(3.5, 4.5)
    expect(empty!.share).toBe(0)
    expect(plan.host.unitCount).toBe(0)
  })

  test("go to a slow one where the fast ones are full", () => {
    const devices = [device("RPC0", 2.5 * GIB), device("RPC1", 2.5 * GIB), device("RPC2", 8 * GIB)]
    const { plan } = planFor({ devices, speeds: [10, 9, 1] })
    expect(plan.host.unitCount).toBe(0)
    expect(plan.devices[2]!.share!).toBeGreaterThan(0.2)
    for (const { freeAfterBytes } of plan.devices) {
      expect(freeAfterBytes).toBeGreaterThanOrEqual(64 * MIB)
    }
  })

  test("stay on this host where devices have no room for all layers", () => {
    const { plan } = planFor({ devices: [device("RPC0", 2 * GIB), device("RPC1", 2 * GIB)] })
    expect(plan.host.unitCount).toBeGreaterThan(10)
    expect(plan.devices[0]!.firstUnit).toBe(plan.host.unitCount)
    expect(plan.devices[0]!.unitCount).toBe(33 - plan.host.unitCount)
    for (const { freeAfterBytes } of plan.devices) {
      expect(freeAfterBytes).toBeGreaterThanOrEqual(64 * MIB)
    }
  })

  test("have a shorter context where nobody asked for it and all layers are to be on devices", () => {
    const { plan } = planFor({
      devices: [device("RPC0", 5 * GIB), device("RPC1", 5 * GIB)],
      contextSize: 131_072,
      minContextSize: 4096,
      gpuLayers: 33,
    })
    expect(plan.wantedContextSize).toBe(131_072)
    expect(plan.contextSize).toBeGreaterThanOrEqual(4096)
    expect(plan.contextSize % 256).toBe(0)
    expect(plan.contextSize).toBeLessThan(131_072)
  })

  test("that do not fit say where memory is missing, and which context would fit", () => {
    const overrides = {
      devices: [device("RPC0", 5 * GIB), device("RPC1", 5 * GIB)],
      contextSize: 131_072,
      gpuLayers: 33,
    }
    const error = errorFor(overrides)
    expect(error.reason).toBe("does-not-fit")
    expect(error.message).toMatch(/RPC0 lacks [\d.]+ GiB of [\d.]+ GiB; RPC1 lacks/)
    const context = Number(/--ctx-size (\d+)/.exec(error.message)?.[1])
    expect(planFor({ ...overrides, contextSize: context }).plan.contextSize).toBe(context)
  })

  test("that do not fit as they are to be cut say that other shares would", () => {
    const devices = [device("RPC0", 2 * GIB), device("RPC1", 40 * GIB)]
    const error = errorFor({ devices, tensorSplit: [10, 1], gpuLayers: 33 })
    expect(error.message).toContain("Another --tensor-split would fit")
  })

  test("fit whatever the devices have, or are refused in words", () => {
    const devices = fc.array(fc.integer({ min: 0, max: 12 * GIB }), { minLength: 2, maxLength: 5 })
    const speeds = fc.array(fc.constantFrom(1, 0.8, 0.3, 0.01), { minLength: 5, maxLength: 5 })
    fc.assert(
      fc.property(devices, fc.constantFrom(undefined, 33, 20), speeds, (free, gpuLayers, fast) => {
        fc.pre(free.some((bytes) => bytes > 0))
        const input = {
          devices: free.map((bytes, index) => device(`RPC${index}`, bytes)),
          speeds: fast.slice(0, free.length),
          gpuLayers,
        }
        try {
          for (const used of planFor(input).plan.devices) {
            if (used.unitCount > 0) expect(used.freeAfterBytes).toBeGreaterThanOrEqual(64 * MIB)
          }
        } catch (error) {
          if (!(error instanceof PlanError)) throw error
          expect(error.reason).toBe("does-not-fit")
        }
      }),
      { seed: 7, numRuns: 300 },
    )
  })
})
