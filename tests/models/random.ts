import { type GgufTensorToWrite, seedFor } from "@ggml-rpc/gguf"
import type { WritableType } from "./quantize.ts"

/** Types whose values can be random bits, besides those that values are packed into. */
export type RandomType = WritableType | "Q4_K"

/**
 * A tensor of random weights, uniform around 0 with standard deviation `sigma` (default: 1 over the
 * root of the row length, which keeps activations of order 1). Made for speed: 900 MB take about a
 * second. Each row depends on seed, name and its number only.
 */
export const randomTensor = (
  name: string,
  type: RandomType,
  ne: readonly number[],
  seed: number,
  sigma = 1 / Math.sqrt(ne[0]!),
): GgufTensorToWrite => {
  const fillRow = rowFiller(type, ne[0]!, sigma)
  const tensorSeed = seedFor(seed, name)
  return {
    name,
    type,
    ne,
    fill: (target, firstRow) => fillRows(target, firstRow, fillRow, tensorSeed),
  }
}

/** The smallest whole piece of a type. */
const UNIT = {
  F32: { elements: 1, sizeBytes: 4 },
  F16: { elements: 1, sizeBytes: 2 },
  Q8_0: { elements: 32, sizeBytes: 34 },
  Q4_0: { elements: 32, sizeBytes: 18 },
  Q4_K: { elements: 256, sizeBytes: 144 },
} as const satisfies Record<RandomType, { elements: number; sizeBytes: number }>

/** Writes one row's 16-bit words from `at` on. */
type FillRow = (words: Uint16Array, at: number, state: number) => void

interface RowFiller {
  readonly words: number
  readonly fill: FillRow
}

const fillRows = (
  target: Uint8Array,
  firstRow: number,
  row: RowFiller,
  tensorSeed: number,
): void => {
  const words = new Uint16Array(target.buffer, target.byteOffset, target.byteLength / 2)
  for (let at = 0, index = firstRow; at < words.length; at += row.words, index++) {
    row.fill(words, at, nonZeroState(tensorSeed + index))
  }
}

const rowFiller = (type: RandomType, elements: number, sigma: number): RowFiller => {
  const words = ((elements / UNIT[type].elements) * UNIT[type].sizeBytes) / 2
  switch (type) {
    case "F32":
      return { words, fill: fillF32(words, sigma) }
    case "F16":
      return { words, fill: fillF16(words, sigma) }
    case "Q8_0":
      return { words, fill: fillBlocks(words, 17, sigma / Q8_0_DEVIATION) }
    case "Q4_0":
      return { words, fill: fillBlocks(words, 9, sigma / Q4_0_DEVIATION) }
    case "Q4_K":
      return { words, fill: fillQ4_K(words, sigma / Q4_K_DEVIATION) }
  }
}

/** Deviation of a random signed byte, and of a random nibble less 8 (its mean of -0.5 is small). */
const Q8_0_DEVIATION = 256 / Math.sqrt(12)
const Q4_0_DEVIATION = 16 / Math.sqrt(12)

/** Blocks of one fp16 scale and random words; scales vary a little, as real ones do. */
const fillBlocks = (words: number, blockWords: number, scale: number): FillRow => {
  const scales = new Uint16Array(16)
  const floats = new Float16Array(scales.buffer)
  for (let i = 0; i < 16; i++) floats[i] = scale * (0.75 + i / 30)
  return (target, from, seed) => {
    let state = seed
    for (let at = from; at < from + words; at += blockWords) {
      state = step(state)
      target[at] = scales[state & 15]!
      for (let i = 1; i < blockWords; i += 2) {
        state = step(state)
        target[at + i] = state
        target[at + i + 1] = state >>> 16
      }
    }
  }
}

/** What takes the mean off: of a random scale times a random nibble, in random minima. */
const Q4_K_MIN_FACTOR = 7.5
/** Of scale × nibble - 7.5 × minimum, with random ones of 6, 4 and 6 bits. */
const Q4_K_DEVIATION = 258.3

/** ggml-common.h `block_q4_K` (llama.cpp v0.5.0): the fp16 scales of scales and of minima, then random words. */
const fillQ4_K = (words: number, scale: number): FillRow => {
  const heads = new Uint16Array(2)
  new Float16Array(heads.buffer).set([scale, scale * Q4_K_MIN_FACTOR])
  const blockWords = UNIT.Q4_K.sizeBytes / 2
  return (target, from, seed) => {
    let state = seed
    for (let at = from; at < from + words; at += blockWords) {
      target.set(heads, at)
      for (let i = 2; i < blockWords; i += 2) {
        state = step(state)
        target[at + i] = state
        target[at + i + 1] = state >>> 16
      }
    }
  }
}

const fillF16 = (words: number, sigma: number): FillRow => {
  // A table from a random byte pair to its fp16 bits is faster than converting each value.
  const bits = new Uint16Array(4096)
  const floats = new Float16Array(bits.buffer)
  for (let i = 0; i < bits.length; i++) floats[i] = uniformAround0(i / bits.length, sigma)
  return (target, from, seed) => {
    let state = seed
    for (let at = from; at < from + words; at++) {
      state = step(state)
      target[at] = bits[state >>> 20]!
    }
  }
}

const fillF32 = (words: number, sigma: number): FillRow => {
  const bits = new Uint16Array(2)
  const float = new Float32Array(bits.buffer)
  return (target, from, seed) => {
    let state = seed
    for (let at = from; at < from + words; at += 2) {
      state = step(state)
      float[0] = uniformAround0((state >>> 0) / 2 ** 32, sigma)
      target[at] = bits[0]!
      target[at + 1] = bits[1]!
    }
  }
}

const uniformAround0 = (unit: number, sigma: number): number =>
  (2 * unit - 1) * sigma * Math.sqrt(3)

/** xorshift32. */
const step = (state: number): number => {
  const a = state ^ (state << 13)
  const b = a ^ (a >>> 17)
  return b ^ (b << 5)
}

/** Well-mixed start for neighbouring seeds; xorshift must not start at 0. */
const nonZeroState = (seed: number): number => seedFor(seed, "") || 0x9e3779b9
