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
