import { quantize, type WritableType } from "./quantize.ts"
import type { GgufTensorToWrite } from "./write.ts"

/** Deterministic numbers: the same seed gives the same sequence everywhere. Not for secrets. */
export class SeededRandom {
  private state: number

  constructor(seed: number) {
    this.state = nonZeroState(seed)
  }

  /** Uniform in [0, 1). */
  uniform(): number {
    this.state = step(this.state)
    return (this.state >>> 0) / 2 ** 32
  }

  /** Normal with mean 0 and deviation 1. */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()))
    return radius * Math.cos(2 * Math.PI * this.uniform())
  }
}

/** A number for a name within a seed, so that every tensor has a sequence of its own. */
export const seedFor = (seed: number, name: string): number => {
  let mixed = scramble(seed)
  for (let i = 0; i < name.length; i++) mixed = scramble(mixed ^ name.charCodeAt(i))
  return mixed
}

/**
 * A tensor of random weights, uniform around 0 with standard deviation `sigma` (default: 1 over the
 * root of the row length, which keeps activations of order 1). Made for speed: 900 MB take about a
 * second. Each row depends on seed, name and its number only.
 */
export const randomTensor = (
  name: string,
  type: WritableType,
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

/** A tensor whose values are all `value`, as a norm's weights. */
export const constantTensor = (
  name: string,
  type: WritableType,
  ne: readonly number[],
  value: number,
): GgufTensorToWrite =>
  computedTensor(name, type, ne, (row) => {
    row.fill(value)
  })

/** A tensor computed row by row in float and packed as `type`. Rows are asked for in order. */
export const computedTensor = (
  name: string,
  type: WritableType,
  ne: readonly number[],
  computeRow: (row: Float32Array, index: number) => void,
): GgufTensorToWrite => {
  const row = new Float32Array(ne[0]!)
  const rowBytes = (ne[0]! / UNIT[type].elements) * UNIT[type].sizeBytes
  const fill = (target: Uint8Array, firstRow: number) => {
    const rowCount = target.byteLength / rowBytes
    for (let index = 0; index < rowCount; index++) {
      row.fill(0)
      computeRow(row, firstRow + index)
      quantize(type, row, target.subarray(index * rowBytes, (index + 1) * rowBytes))
    }
  }
  return { name, type, ne, fill }
}

/** What one step of packing produces. */
const UNIT = {
  F32: { elements: 1, sizeBytes: 4 },
  F16: { elements: 1, sizeBytes: 2 },
  Q8_0: { elements: 32, sizeBytes: 34 },
  Q4_0: { elements: 32, sizeBytes: 18 },
} as const satisfies Record<WritableType, { elements: number; sizeBytes: number }>

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

const rowFiller = (type: WritableType, elements: number, sigma: number): RowFiller => {
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
const nonZeroState = (seed: number): number => scramble(seed) || 0x9e3779b9

/** The finalizer of MurmurHash3. */
const scramble = (value: number): number => {
  const a = Math.imul(value ^ (value >>> 16), 0x85ebca6b)
  const b = Math.imul(a ^ (a >>> 13), 0xc2b2ae35)
  return b ^ (b >>> 16)
}
