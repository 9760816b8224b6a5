import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import { PlanError } from "../errors.ts"
import {
  type Candidate,
  type DeviceUse,
  firstCandidate,
  type Measurement,
  type Plan,
  type PlannerInput,
  planSteps,
  poolsOf,
  splitUnits,
} from "./index.ts"
import {
  device,
  GIB,
  inputOf,
  largeModel,
  MIB,
  planErrorOf,
  planWith,
} from "./madeUp.testHelper.ts"

/** What a made-up model takes, as libllama would measure it. */
interface MadeUpModel {
  readonly unitBytes: ReadonlyArray<number>
  /** Bytes of KV cache per block and token. */
  readonly kvBytes: number
  /** Compute buffer of each device that is used. */
  readonly computeBytes: number
  /** Weights that stay on the host in any case: the input embedding. */
  readonly embeddingBytes: number
  /** Whether the host repacks what it computes. */
  readonly repacks?: boolean
}

const measure = (model: MadeUpModel, { unitCounts, contextSize }: Candidate): Measurement => {
  const unitCount = model.unitBytes.length
  const useOf = (first: number, count: number): DeviceUse => {
    const blocks = Math.max(0, Math.min(first + count, unitCount - 1) - first)
    return {
      weightBytes: model.unitBytes.slice(first, first + count).reduce((a, b) => a + b, 0),
      contextBytes: blocks * model.kvBytes * contextSize,
      computeBytes: count > 0 ? model.computeBytes : 0,
    }
  }
  const hostUnits = unitCount - unitCounts.reduce((a, b) => a + b, 0)
  let next = hostUnits
  const devices = unitCounts.map((count) => {
    const first = next
    next += count
    return useOf(first, count)
  })
  const host = useOf(0, hostUnits)
  return {
    devices,
    host: {
      ...host,
      weightBytes: host.weightBytes + model.embeddingBytes,
      computeBytes: model.computeBytes,
    },
    hostFileLayoutBytes: model.embeddingBytes + (model.repacks ? 0 : host.weightBytes),
  }
}

const planFor = (model: MadeUpModel, overrides: Partial<PlannerInput> = {}) =>
  planWith(inputOf(model, overrides), (candidate) => measure(model, candidate))

const errorFor = (model: MadeUpModel, overrides: Partial<PlannerInput> = {}): PlanError =>
  planErrorOf(() => planFor(model, overrides))

const countsOf = (plan: Plan): ReadonlyArray<number> =>
  plan.devices.map(({ unitCount }) => unitCount)

const large: MadeUpModel = { ...largeModel, embeddingBytes: 250 * MIB }

describe("units in proportion", () => {
  // What llama-model.cpp puts where (upper_bound over single-precision shares), by hand.
  test.each([
    [9, [1, 1], [5, 4]],
    [9, [1], [9]],
    [9, [3, 1], [7, 2]],
    [33, [24, 8, 8], [20, 7, 6]],
    [3, [1, 1, 1, 1], [1, 1, 1, 0]],
    [9, [0, 1], [0, 9]],
    [9, [1, 0], [9, 0]],
    [9, [1, 0, 1], [5, 0, 4]],
    [0, [1, 1], [0, 0]],
  ])("%d units over %j are %j", (unitCount, weights, counts) => {
    expect(splitUnits(unitCount, weights)).toEqual(counts)
  })

  test("no device gets nothing", () => {
    expect(splitUnits(9, [])).toEqual([])
  })

  test("counts as proportions give the same counts again, as the engine asks of libllama", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 90 }), { minLength: 1, maxLength: 12 }),
        (counts) => {
          const used = counts.filter((count) => count > 0)
          const sum = used.reduce((a, b) => a + b, 0)
          expect(splitUnits(sum, used)).toEqual(used)
        },
      ),
      { seed: 7, numRuns: 2000 },
    )
  })

  test("every unit is somewhere, whatever the proportions", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 200 }),
        fc.array(fc.double({ min: 0, max: 1e13, noNaN: true }), { minLength: 1, maxLength: 8 }),
        (unitCount, weights) => {
          fc.pre(weights.some((weight) => Math.fround(weight) > 0))
          const counts = splitUnits(unitCount, weights)
          expect(counts).toHaveLength(weights.length)
          expect(counts.reduce((a, b) => a + b, 0)).toBe(unitCount)
        },
      ),
      { seed: 7, numRuns: 1000 },
    )
  })
})

describe("a model that fits", () => {
  test("is dealt out by free memory, with one measurement", () => {
    const { plan, candidates } = planFor(large, {
      devices: [device("RPC0", 24 * GIB), device("RPC1", 8 * GIB, 9 * GIB)],
    })
    expect(candidates).toHaveLength(1)
    expect(countsOf(plan)).toEqual([24, 9])
    expect(plan.host.unitCount).toBe(0)
    expect(plan.contextSize).toBe(4096)
    expect(plan.wantedContextSize).toBeUndefined()
    const [first, second] = plan.devices
    expect(first).toMatchObject({ name: "RPC0", firstUnit: 0, unitCount: 24 })
    expect(second).toEqual({
      name: "RPC1",
      firstUnit: 24,
      unitCount: 9,
      weightBytes: 8 * 200 * MIB + 300 * MIB,
      contextBytes: 8 * 16 * 1024 * 4096,
      computeBytes: 100 * MIB,
      freeBytes: 8 * GIB,
      totalBytes: 9 * GIB,
      freeAfterBytes: 8 * GIB - (8 * 200 + 300 + 8 * 64 + 100) * MIB,
    })
  })

  test("follows --tensor-split exactly, also over free memory", () => {
    const { plan } = planFor(large, {
      devices: [device("RPC0", 2 * GIB), device("RPC1", 80 * GIB)],
      tensorSplit: [1, 10],
    })
    expect(countsOf(plan)).toEqual([3, 30])
  })

  test("leaves a device out whose share is 0", () => {
    expect(countsOf(planFor(large, { tensorSplit: [0, 1], devices: bigDevices }).plan)).toEqual([
      0, 33,
    ])
  })

  test("puts only --gpu-layers of them on devices, the last ones", () => {
    const { plan } = planFor(large, { gpuLayers: 10 })
    expect(countsOf(plan)).toEqual([5, 5])
    expect(plan.host).toMatchObject({ firstUnit: 0, unitCount: 23 })
    expect(plan.devices.map(({ firstUnit }) => firstUnit)).toEqual([23, 28])
    const all = planFor(large, { gpuLayers: 99 })
    expect(all.plan.host.unitCount).toBe(0)
    const none = planFor(large, { gpuLayers: 0 })
    expect(countsOf(none.plan)).toEqual([0, 0])
  })

  test("without devices is on this host", () => {
    const { plan } = planFor(large, { devices: [] })
    expect(plan.devices).toEqual([])
    expect(plan.host.unitCount).toBe(33)
  })

  test("is on this host when no device has anything free", () => {
    const { plan } = planFor(large, { devices: [device("RPC0", 0), device("RPC1", 0)] })
    expect(countsOf(plan)).toEqual([0, 0])
    expect(plan.host.unitCount).toBe(33)
  })
})

const bigDevices = [device("RPC0", 80 * GIB), device("RPC1", 80 * GIB)]

describe("devices that are too full by proportion", () => {
  test("give layers to one with more room", () => {
    // Uneven blocks: the first half is ten times as large.
    const uneven: MadeUpModel = {
      ...large,
      unitBytes: [
        ...Array.from({ length: 16 }, () => 400 * MIB),
        ...Array.from({ length: 16 }, () => 40 * MIB),
        300 * MIB,
      ],
    }
    const devices = [device("RPC0", 5 * GIB), device("RPC1", 5 * GIB)]
    const { plan, candidates } = planFor(uneven, { devices, gpuLayers: 33 })
    expect(candidates[0]!.unitCounts).toEqual([16, 17])
    expect(candidates.length).toBeGreaterThan(1)
    expect(plan.host.unitCount).toBe(0)
    expect(countsOf(plan)[0]).toBeLessThan(17)
    for (const used of plan.devices) expect(used.freeAfterBytes).toBeGreaterThanOrEqual(64 * MIB)
  })

  test("give layers to this host when no device has room", () => {
    const { plan } = planFor(large, {
      devices: [device("RPC0", 2 * GIB), device("RPC1", 2 * GIB)],
    })
    expect(plan.host.unitCount).toBeGreaterThan(10)
    expect(countsOf(plan).every((count) => count > 0)).toBe(true)
    for (const used of plan.devices) expect(used.freeAfterBytes).toBeGreaterThanOrEqual(64 * MIB)
  })

  test("shrink a context that was not asked for", () => {
    const { plan } = planFor(large, {
      devices: [device("RPC0", 5 * GIB), device("RPC1", 5 * GIB)],
      host: device("CPU", 1 * GIB),
      contextSize: 131_072,
      minContextSize: 4096,
      gpuLayers: 33,
    })
    expect(plan.wantedContextSize).toBe(131_072)
    expect(plan.contextSize).toBeLessThan(131_072)
    expect(plan.contextSize).toBeGreaterThanOrEqual(4096)
    expect(plan.contextSize % 256).toBe(0)
    for (const used of plan.devices) expect(used.freeAfterBytes).toBeGreaterThanOrEqual(64 * MIB)
  })

  test("count a table of cells for each group", () => {
    const planned = (groupCount: number): Plan => {
      const light = { ...large, kvBytes: 64 }
      const input = inputOf(light, {
        devices: [device("RPC0", 64 * GIB)],
        host: device("CPU", 1 * GIB),
        contextSize: 1024 * 1024,
        minContextSize: 4096,
      })
      const steps = planSteps(input)
      let step = steps.next()
      while (!step.done) step = steps.next({ ...measure(light, step.value), groupCount })
      return step.value
    }
    expect(planned(1).contextSize).toBe(1024 * 1024)
    // 104 bytes a token, 16 times, in what 1 GiB leaves beside 100 MiB for computing and 64 MiB of headroom.
    const { contextSize } = planned(16)
    expect(contextSize * 16 * 104).toBeLessThanOrEqual((1024 - 164) * MIB)
    expect(contextSize).toBeGreaterThan(256 * 1024)
  })

  test("shrink it for a fixed split too, which stays", () => {
    const overrides = {
      devices: [device("RPC0", 5 * GIB), device("RPC1", 20 * GIB)],
      contextSize: 131_072,
      tensorSplit: [1, 1],
    }
    const { plan } = planFor(large, { ...overrides, minContextSize: 4096 })
    expect(countsOf(plan)).toEqual([17, 16])
    expect(plan.contextSize).toBeGreaterThanOrEqual(4096)
    // Not much less than what fits: 17 layers and their cache in 5 GiB.
    const room = 5 * GIB - 64 * MIB - 17 * 200 * MIB - 100 * MIB
    expect(plan.contextSize).toBeGreaterThan(room / (17 * 16 * 1024) / 2)
    // And the advice for one that was asked for holds.
    const context = Number(/--ctx-size (\d+)/.exec(errorFor(large, overrides).message)?.[1])
    expect(context).toBeGreaterThan(4096)
    const advised = planFor(large, { ...overrides, contextSize: context })
    expect(countsOf(advised.plan)).toEqual([17, 16])
  })

  test("but never one that was", () => {
    const error = errorFor(large, {
      devices: [device("RPC0", 5 * GIB), device("RPC1", 5 * GIB)],
      host: device("CPU", 1 * GIB),
      contextSize: 131_072,
      gpuLayers: 33,
    })
    expect(error.reason).toBe("does-not-fit")
  })
})

describe("a model that does not fit", () => {
  test("says how much is missing, where, and which context would fit", () => {
    const overrides = {
      devices: [device("RPC0", 5 * GIB), device("RPC1", 5 * GIB)],
      host: device("CPU", 1 * GIB),
      contextSize: 131_072,
      gpuLayers: 33,
    }
    const error = errorFor(large, overrides)
    expect(error.missingBytes).toBeGreaterThan(50 * GIB)
    expect(error.message).toMatch(/^The model does not fit: [\d.]+ GiB of memory are missing/)
    expect(error.message).toMatch(/RPC0 lacks [\d.]+ GiB of [\d.]+ GiB/)
    const context = Number(/--ctx-size (\d+)/.exec(error.message)?.[1])
    expect(context).toBeGreaterThanOrEqual(256)
    // The advice holds.
    expect(planFor(large, { ...overrides, contextSize: context }).plan.contextSize).toBe(context)
  })

  test("says no more than what is missing of all the memory that there is", () => {
    const overrides = {
      devices: [device("RPC0", 5 * GIB), device("RPC1", 5 * GIB)],
      host: device("CPU", 1 * GIB),
      contextSize: 131_072,
    }
    const { missingBytes = 0 } = errorFor(large, overrides)
    const withMore = (bytes: number) => ({ ...overrides, host: device("CPU", 1 * GIB + bytes) })
    expect(errorFor(large, withMore(missingBytes / 2)).reason).toBe("does-not-fit")
    expect(planFor(large, withMore(missingBytes * 1.02)).plan.contextSize).toBe(131_072)
  })

  test("gives advice that still holds when a little more is in use", () => {
    const overrides = {
      devices: [device("RPC0", 5 * GIB), device("RPC1", 5 * GIB)],
      host: device("CPU", 1 * GIB),
      contextSize: 131_072,
    }
    const error = errorFor(large, overrides)
    const contextSize = Number(/--ctx-size (\d+)/.exec(error.message)?.[1])
    const less = {
      devices: [device("RPC0", 4.9 * GIB), device("RPC1", 4.9 * GIB)],
      host: device("CPU", 0.98 * GIB),
    }
    expect(planFor(large, { ...less, contextSize }).plan.contextSize).toBe(contextSize)
  })

  test("says how many layers would fit when too many were asked for", () => {
    const overrides = {
      devices: [device("RPC0", 2 * GIB), device("RPC1", 2 * GIB)],
      contextSize: 256,
      gpuLayers: 33,
    }
    const error = errorFor(large, overrides)
    const layers = Number(/--gpu-layers (\d+)/.exec(error.message)?.[1])
    expect(layers).toBeGreaterThan(5)
    expect(planFor(large, { ...overrides, gpuLayers: layers }).plan.host.unitCount).toBe(
      33 - layers,
    )
  })

  test("says that another split would fit", () => {
    const error = errorFor(large, {
      tensorSplit: [10, 1],
      devices: [device("RPC0", 2 * GIB), device("RPC1", 40 * GIB)],
    })
    expect(error.message).toContain("Another --tensor-split would fit")
  })

  test("says what else there is when nothing would fit", () => {
    const error = errorFor(large, {
      devices: [device("RPC0", 100 * MIB)],
      host: device("CPU", 200 * MIB),
      mapsWeights: false,
    })
    expect(error.message).toContain("Add a server with more memory")
  })

  test("on this host alone", () => {
    const error = errorFor(large, { devices: [], host: device("CPU", GIB), contextSize: 131_072 })
    expect(error.message).toContain("this host lacks")
  })

  test("where mapped weights need no memory, but repacked ones do", () => {
    const host = device("CPU", 4 * GIB)
    expect(planFor(large, { devices: [], host }).plan.host.unitCount).toBe(33)
    expect(errorFor({ ...large, repacks: true }, { devices: [], host }).reason).toBe("does-not-fit")
    expect(errorFor(large, { devices: [], host, mapsWeights: false }).reason).toBe("does-not-fit")
  })
})

describe("a tensor split", () => {
  test.each([
    [[1], "--tensor-split has 1 value, but there are 2 devices (RPC0, RPC1)"],
    [[1, 2, 3], "--tensor-split has 3 values, but there are 2 devices"],
    [[0, 0], "at least one above zero"],
    [[1, -1], "not negative"],
    [[Number.NaN, 1], "needs numbers"],
    [[Number.POSITIVE_INFINITY, 1], "needs numbers"],
  ])("of %j is refused", (tensorSplit, message) => {
    const error = errorFor(large, { tensorSplit })
    expect(error.reason).toBe("tensor-split")
    expect(error.message).toContain(message)
  })

  test("without devices is refused", () => {
    expect(errorFor(large, { devices: [], tensorSplit: [1] }).message).toContain("nothing to split")
  })
})

describe("for any model and devices", () => {
  const bytes = (max: number) => fc.integer({ min: 0, max })
  const modelOf = fc.record({
    unitBytes: fc.array(bytes(2 * GIB), { minLength: 2, maxLength: 80 }),
    kvBytes: bytes(256 * 1024),
    computeBytes: bytes(600 * MIB),
    embeddingBytes: bytes(GIB),
    repacks: fc.boolean(),
  })
  const overridesOf = fc.record({
    devices: fc.array(
      bytes(90 * GIB).map((free) => device("RPC", free)),
      { maxLength: 6 },
    ),
    host: bytes(90 * GIB).map((free) => device("CPU", free)),
    contextSize: fc.integer({ min: 1, max: 512 }).map((steps) => steps * 256),
    gpuLayers: fc.option(bytes(90), { nil: undefined }),
    minContextSize: fc.option(fc.constant(256), { nil: undefined }),
    mapsWeights: fc.boolean(),
  })

  test("there is a plan that fits and places every unit once, or an error with numbers", () => {
    let planned = 0
    let refused = 0
    fc.assert(
      fc.property(modelOf, overridesOf, (model, overrides) => {
        let result: ReturnType<typeof planFor>
        try {
          result = planFor(model, overrides)
        } catch (error) {
          refused++
          if (!(error instanceof PlanError)) throw error
          expect(error.missingBytes).toBeGreaterThan(0)
          return
        }
        planned++
        const { plan, candidates } = result
        expect(candidates.length).toBeLessThanOrEqual(6)
        const used = plan.devices.filter(({ unitCount }) => unitCount > 0)
        for (const { freeBytes, weightBytes, contextBytes, computeBytes } of used) {
          expect(weightBytes + contextBytes + computeBytes).toBeLessThanOrEqual(
            freeBytes - 64 * MIB,
          )
        }
        let next = plan.host.unitCount
        for (const { firstUnit, unitCount } of plan.devices) {
          expect(firstUnit).toBe(next)
          next += unitCount
        }
        expect(next).toBe(model.unitBytes.length)
        expect(plan.contextSize).toBeLessThanOrEqual(overrides.contextSize)
        if (overrides.minContextSize === undefined) {
          expect(plan.contextSize).toBe(overrides.contextSize)
        }
      }),
      { seed: 11, numRuns: 1500 },
    )
    // Both outcomes were there.
    expect(planned).toBeGreaterThan(200)
    expect(refused).toBeGreaterThan(200)
  })
})

test("the first candidate has stages of as many blocks, or in proportion to memory, or llama.cpp's split of what was given", () => {
  const countsFor = (...free: ReadonlyArray<number>): ReadonlyArray<number> =>
    firstCandidate(
      inputOf(large, { devices: free.map((gib, at) => device(`RPC${at}`, gib * GIB)) }),
    ).unitCounts
  expect(firstCandidate(inputOf(large)).unitCounts).toEqual([16, 17])
  // Memory that hardly differs says nothing of speed.
  expect(countsFor(16, 12)).toEqual([16, 17])
  expect(countsFor(16, 12, 14, 15)).toEqual([8, 8, 8, 9])
  expect(countsFor(24, 8)).toEqual([24, 9])
  expect(countsFor(24, 8, 0)).toEqual([24, 9, 0])
  expect(countsFor(0, 0)).toEqual([0, 0])
  expect(firstCandidate(inputOf(large, { gpuLayers: 1 })).unitCounts).toEqual([0, 1])
  expect(firstCandidate(inputOf(large, { tensorSplit: [3, 1] })).unitCounts).toEqual([25, 8])
})

describe("a memory that several devices draw from", () => {
  const at = (
    freeBytes: number,
    memory?: string,
    endpoint?: string,
    totalBytes = 2 * freeBytes,
  ) => ({
    freeBytes,
    totalBytes,
    memory,
    endpoint,
  })

  test("is one pool; devices of one server in it are another, as they may have a limit of their own", () => {
    const devices = [
      at(GIB, "m", "a"),
      at(GIB, "m", "a"),
      at(8 * GIB, "m", "b"),
      at(3 * GIB, "g", "b"),
    ]
    expect(poolsOf(devices, at(9 * GIB, "h"))).toEqual([
      { members: [0, 1, 2], freeBytes: 8 * GIB, isInner: false },
      { members: [0, 1], freeBytes: GIB, isInner: true },
    ])
    expect(poolsOf([at(GIB, "m"), at(GIB), at(GIB)], at(2 * GIB, "m"))).toEqual([
      { members: [0, -1], freeBytes: 2 * GIB, isInner: false },
    ])
    // Who says that all is free does not know.
    expect(poolsOf([at(9 * GIB, "m", "a", 9 * GIB)], at(2 * GIB, "m"))[0]!.freeBytes).toBe(2 * GIB)
    expect(poolsOf([at(GIB), at(GIB)], at(GIB))).toEqual([])
  })

  /** 8 blocks of 50 MiB. */
  const small: MadeUpModel = {
    unitBytes: Array.from({ length: 8 }, () => 50 * MIB),
    kvBytes: 0,
    computeBytes: 10 * MIB,
    embeddingBytes: 5 * MIB,
    repacks: true,
  }
  const group = 560 * MIB
  const two = [device("RPC0", group), device("RPC1", group)]
  const shared = [{ members: [0, 1], freeBytes: group, isInner: false }]
  const host = device("CPU", 100 * MIB)

  test("fits two servers of a group once", () => {
    const double: MadeUpModel = { ...small, unitBytes: Array.from({ length: 8 }, () => 100 * MIB) }
    // As two machines of 560 MiB they take 800 MiB, as one group they do not.
    expect(countsOf(planFor(double, { devices: two, host }).plan)).toEqual([4, 4])
    const error = errorFor(double, { devices: two, host, pools: shared })
    expect(error.message).toContain("RPC0, RPC1 and this host have 660 MiB free together")
    expect(error.missingBytes).toBeGreaterThan(200 * MIB)
    expect(error.missingBytes).toBeLessThan(400 * MIB)
    // What fits in it, fits.
    const { plan } = planFor(small, { devices: two, host, pools: shared })
    expect(countsOf(plan)).toEqual([4, 4])
    expect(plan.devices.map(({ freeAfterBytes }) => freeAfterBytes / MIB)).toEqual([140, 140])
    expect(plan.shared).toEqual([{ devices: ["RPC0", "RPC1"], hasHost: false, freeBytes: group }])
  })

  test("counts half for each of two beside a third with its own", () => {
    const devices = [...two, device("RPC2", group)]
    const { unitCounts } = firstCandidate(inputOf(small, { devices, host, pools: shared }))
    expect(unitCounts).toEqual([2, 2, 4])
  })

  test("gives what one may not take to the other", () => {
    const devices = [device("RPC0", 70 * MIB), device("RPC1", group), device("RPC2", 490 * MIB)]
    const { unitCounts } = firstCandidate(inputOf(small, { devices, host, pools: shared }))
    expect(unitCounts).toEqual([1, 3, 4])
  })

  test("moves layers to a device with another one when it is too full", () => {
    const devices = [...two, device("RPC2", 2 * GIB)]
    const narrow = [{ members: [0, 1], freeBytes: 250 * MIB, isInner: false }]
    const { plan } = planFor(small, { devices, host, pools: narrow, tensorSplit: undefined })
    const [first, second, third] = countsOf(plan)
    expect(first! + second! + third!).toBe(8)
    expect((first! + second!) * 50 + 20).toBeLessThanOrEqual(250 - 64)
  })

  test("is this host's as well: what the CPU copies is not there for a server", () => {
    const pools = [{ members: [0, -1], freeBytes: 400 * MIB, isInner: false }]
    const options = { devices: [device("RPC0", 400 * MIB)], host: device("CPU", 400 * MIB), pools }
    const error = errorFor(small, options)
    expect(error.message).toContain("RPC0 and this host share one memory, which lacks")
    // Mapped from the file it needs none.
    const { plan } = planFor({ ...small, repacks: false }, options)
    expect(countsOf(plan)[0]).toBeGreaterThan(0)
    expect(plan.host.unitCount).toBeGreaterThan(0)
    expect(plan.shared).toEqual([{ devices: ["RPC0"], hasHost: true, freeBytes: 400 * MIB }])
  })

  test("full, it is no obstacle for who does not use it", () => {
    const pools = [{ members: [0, 1], freeBytes: 0, isInner: false }]
    const devices = [device("RPC0", 0), device("RPC1", 0), device("RPC2", GIB)]
    expect(countsOf(planFor(small, { devices, host, pools }).plan)).toEqual([0, 0, 8])
  })

  test("is never overdrawn, whatever there is", () => {
    const sizes = fc.array(fc.integer({ min: 0, max: 2000 }), { minLength: 2, maxLength: 5 })
    fc.assert(
      fc.property(sizes, fc.integer({ min: 0, max: 2500 }), (free, poolFree) => {
        const devices = free.map((mib, index) => device(`RPC${index}`, mib * MIB))
        const pools = [{ members: [0, 1], freeBytes: poolFree * MIB, isInner: false }]
        let plan: Plan
        try {
          plan = planFor(small, { devices, host: device("CPU", 600 * MIB), pools }).plan
        } catch (error) {
          if (error instanceof PlanError) return
          throw error
        }
        const used = plan.devices
          .slice(0, 2)
          .reduce((sum, use) => sum + use.weightBytes + use.computeBytes, 0)
        expect(used === 0 || used <= (poolFree - 64) * MIB).toBe(true)
      }),
      { seed: 5, numRuns: 1000 },
    )
  })
})

describe("more devices than one model can be on", () => {
  const many = (count: number) =>
    Array.from({ length: count }, (_, index) => device(`RPC${index}`, (index + 1) * GIB))

  test("the 15 with the most free memory are used, and the others named", () => {
    const { plan } = planFor(large, { devices: many(18) })
    expect(plan.leftOut).toEqual(["RPC0", "RPC1", "RPC2"])
    expect(countsOf(plan).slice(0, 3)).toEqual([0, 0, 0])
    expect(countsOf(plan).reduce((sum, count) => sum + count, 0)).toBe(33)
    expect(plan.devices[0]!.freeBytes).toBe(GIB)
  })

  test("15 are all used", () => {
    expect(planFor(large, { devices: many(15) }).plan.leftOut).toEqual([])
  })

  test("a split over more is refused", () => {
    const split = { devices: many(16), tensorSplit: Array.from({ length: 16 }, () => 1) }
    expect(errorFor(large, split).message).toContain("gives layers to 16 devices")
  })

  test("a memory that they share is not counted for those that are left out", () => {
    const devices = many(17).map((one) => ({ ...one, memory: "one", freeBytes: 20 * GIB }))
    const { plan } = planFor(large, { devices, pools: poolsOf(devices, device("CPU", 16 * GIB)) })
    expect(plan.leftOut).toEqual(["RPC15", "RPC16"])
    expect(countsOf(plan).slice(15)).toEqual([0, 0])
  })

  test("of one memory the last are left out, whatever was free when each was asked", () => {
    const devices = many(17).map((one) => ({ ...one, memory: "one" }))
    const { plan } = planFor(large, { devices, pools: poolsOf(devices, device("CPU", 16 * GIB)) })
    expect(plan.leftOut).toEqual(["RPC15", "RPC16"])
  })
})
