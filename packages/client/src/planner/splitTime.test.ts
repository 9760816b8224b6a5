import { describe, expect, test } from "bun:test"
import { type SplitDevice, type SplitWork, speedOf, splitTimes } from "./splitTime.ts"

/** A model of 8 GB in Q8_0. */
const work: SplitWork = {
  weightBytes: 8e9,
  multiplications: 7.5e9,
  hasExperts: false,
  blockCount: 32,
  embeddingLength: 4096,
}

const device = (change: Partial<SplitDevice> = {}): SplitDevice => ({
  weightBytesPerSecond: 20e9,
  multiplicationsPerSecond: 200e9,
  roundTripMs: 0.1,
  bytesPerSecond: 1e9,
  layerShare: 0.5,
  blockShare: 0.5,
  tensorShare: 0.5,
  place: crypto.randomUUID(),
  isAtOnce: false,
  ...change,
})

const linked = { isLinked: true, ubatchSize: 128, isBf16: false }
const byClient = { isLinked: false, ubatchSize: 128, isBf16: false }

describe("two equal servers", () => {
  test("on a fast network are nearly twice as fast with tensors cut", () => {
    const { layer, tensor, faster } = splitTimes(work, [device(), device()], linked)
    // 8 GB at 20 GB/s, and two ways there and back; half of that, and 64 sums with one way each.
    expect(layer.tokenMs).toBeCloseTo(400 + 0.2 + 0.5, 0)
    expect(tensor.tokenMs).toBeCloseTo(200 + 64 * (0.05 + 0.05 + 0.016) + 0.1 + 0.5, 0)
    // Four micro-batches: the second server begins when the first one has done a quarter of its part.
    expect(layer.promptMs).toBeCloseTo((19_200 * 5) / 8, -2)
    expect(tensor.promptMs).toBeLessThan(layer.promptMs * 0.95)
    expect(faster).toBe("tensor")
  })

  test("far away are faster with whole layers", () => {
    const far = () => device({ roundTripMs: 20 })
    const { layer, tensor, faster } = splitTimes(work, [far(), far()], linked)
    expect(tensor.tokenMs).toBeGreaterThan(64 * 10)
    expect(layer.tokenMs).toBeLessThan(400 + 41)
    expect(faster).toBe("layer")
  })

  test("behind a narrow link are faster with whole layers, for the sake of prompts", () => {
    const narrow = () => device({ bytesPerSecond: 12e6 })
    const { layer, tensor, faster } = splitTimes(work, [narrow(), narrow()], byClient)
    expect(tensor.promptMs).toBeGreaterThan(layer.promptMs)
    expect(faster).toBe("layer")
  })

  test("with a model so small that sums cost more than it, too", () => {
    const small = { ...work, weightBytes: 1e6, multiplications: 1e6, blockCount: 4 }
    expect(splitTimes(small, [device(), device()], linked).faster).toBe("layer")
  })
})

test("sums through the client cost more than between servers, the more servers there are", () => {
  const one = (isLinked: boolean, count: number): number => {
    const share = { layerShare: 1 / count, blockShare: 1 / count, tensorShare: 1 / count }
    return splitTimes(
      work,
      Array.from({ length: count }, () => device(share)),
      { isLinked, ubatchSize: 128, isBf16: false },
    ).tensor.promptMs
  }
  expect(one(false, 2)).toBeGreaterThan(one(true, 2))
  expect(one(false, 4) - one(true, 4)).toBeGreaterThan(one(false, 2) - one(true, 2))
})

test("the slowest device is waited for, and a device without a share counts for nothing", () => {
  const slow = device({ weightBytesPerSecond: 5e9 })
  const idle = device({
    layerShare: 0,
    blockShare: 0,
    tensorShare: 0,
    weightBytesPerSecond: 1,
    roundTripMs: 1000,
  })
  const { layer, tensor } = splitTimes(work, [device(), slow, idle], linked)
  expect(layer.tokenMs).toBeCloseTo(200 + 800, -1)
  expect(tensor.tokenMs).toBeGreaterThan(800)
  expect(tensor.tokenMs).toBeLessThan(850)
})

test("devices of one server, and a prompt in one piece, follow one after the other", () => {
  const timesOf = (devices: ReadonlyArray<SplitDevice>, ubatchSize: number) =>
    splitTimes(work, devices, { isLinked: true, ubatchSize, isBf16: false })
  const [first, second] = [device(), device()]
  const whole = timesOf([first, second], 512).layer.promptMs
  expect(whole).toBeCloseTo(19_200, -2)
  expect(timesOf([first, second], 128).layer.promptMs).toBeLessThan(whole * 0.65)
  const ofOne = timesOf([first, { ...second, place: first.place }], 128)
  expect(ofOne.layer.promptMs).toBeCloseTo(whole, -2)
  expect(ofOne.tensor.tokenMs).toBeGreaterThan(400)
  expect(ofOne.faster).toBe("layer")
})

test("devices of one server that compute at once take half the time, and their sums no way", () => {
  const one = { place: "a:1", roundTripMs: 10 }
  const times = (isAtOnce: boolean, given = work) =>
    splitTimes(given, [device({ ...one, isAtOnce }), device({ ...one, isAtOnce })], linked)
  const { tensor, layer, faster } = times(true)
  expect(tensor.tokenMs).toBeCloseTo(200 + 64 * 0.05 + 10 + 0.5, 0)
  expect(faster).toBe("tensor")
  // Layers are computed one after the other in any case.
  expect(times(false).layer).toEqual(layer)
  expect(times(false).tensor.tokenMs).toBeCloseTo(tensor.tokenMs + 200, 0)
  // Graphs of experts wait for each other.
  expect(times(true, { ...work, hasExperts: true })).toEqual(times(false))
})

test("with other servers a server's devices add up as one", () => {
  const pair = (place: string) => [
    device({ place, tensorShare: 0.25, isAtOnce: true }),
    device({ place, tensorShare: 0.25, isAtOnce: true }),
  ]
  const { tensor } = splitTimes(work, [...pair("a:1"), ...pair("b:1")], linked)
  expect(tensor.tokenMs).toBeCloseTo(100 + 64 * (0.05 + 0.05 + 0.016) + 0.1 + 0.5, 0)
})

test("a device's speed is that of a prompt and an answer, in proportion", () => {
  const speed = speedOf(work, device())
  const half = { weightBytesPerSecond: 10e9, multiplicationsPerSecond: 100e9 }
  expect(speedOf(work, half)).toBeCloseTo(speed / 2)
  expect(speedOf(work, device({ multiplicationsPerSecond: 100e9 }))).toBeLessThan(speed)
})

test.each([true, false])(
  "as bf16 all that is moved takes half the time, linked: %p",
  (isLinked) => {
    const devices = [device(), device(), device()].map((each) => ({
      ...{ ...each, roundTripMs: 0, layerShare: 1 / 3, tensorShare: 1 / 3 },
      weightBytesPerSecond: 1e15,
      multiplicationsPerSecond: 1e18,
    }))
    const ways = { isLinked, ubatchSize: 512 }
    const exact = splitTimes(work, devices, { ...ways, isBf16: false })
    const rounded = splitTimes(work, devices, { ...ways, isBf16: true })
    expect(rounded.layer.promptMs / exact.layer.promptMs).toBeCloseTo(0.5, 2)
    // What a sum costs besides the way stays.
    const sumsMs = 64 * 0.1
    const ratio = (rounded.tensor.promptMs - sumsMs) / (exact.tensor.promptMs - sumsMs)
    expect(ratio).toBeCloseTo(0.5, 2)
  },
)
