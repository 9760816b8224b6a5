import type { Words } from "./tensorWords.ts"

/**
 * Ids of a graph's tensors, looked up by their position in the payload: open addressing over a power of
 * two, at most half full. The ids stay where they are in the payload; u64 values are compared as two
 * halves, because they are client addresses of up to 64 bits.
 */
export class IdTable {
  /** Index of a tensor plus 1; 0 is free. */
  #slots = new Int32Array(1024)
  #mask = 1023
  // Clients choose the ids: a seed of our own keeps them from choosing ones that collide.
  readonly #seed = (Math.random() * 0x1_0000_0000) | 0
  #words: Words = new Uint32Array(0)
  #start = 0
  #stride = 0

  /**
   * Indexes `count` ids, one every `stride` words from word `start`. The first of equal ids wins; 0 is none.
   */
  fill(words: Words, start: number, stride: number, count: number): void {
    this.#words = words
    this.#start = start
    this.#stride = stride
    this.#reserve(count)
    for (let index = 0, at = start; index < count; index++, at += stride) {
      const low = words[at]!
      const high = words[at + 1]!
      if (low === 0 && high === 0) continue
      const slot = this.#slotOf(low, high)
      if (this.#slots[slot] === 0) this.#slots[slot] = index + 1
    }
  }

  /** Index of the first tensor with this id, or -1. */
  find(low: number, high: number): number {
    return this.#slots[this.#slotOf(low, high)]! - 1
  }

  #reserve(count: number): void {
    let capacity = this.#slots.length
    while (capacity < count * 2) capacity *= 2
    if (capacity === this.#slots.length) {
      this.#slots.fill(0)
    } else {
      this.#slots = new Int32Array(capacity)
      this.#mask = capacity - 1
    }
  }

  /** The slot that holds the id, or the free one where it belongs. */
  #slotOf(low: number, high: number): number {
    let hash = Math.imul(low ^ this.#seed, 0x9e37_79b1) ^ Math.imul(high ^ (low >>> 7), 0x85eb_ca77)
    hash ^= hash >>> 15
    hash = Math.imul(hash, 0x2c1b_3c6d)
    hash ^= hash >>> 13
    const words = this.#words
    const slots = this.#slots
    let slot = hash & this.#mask
    for (;;) {
      const entry = slots[slot]!
      if (entry === 0) return slot
      const at = this.#start + (entry - 1) * this.#stride
      if (words[at] === low && words[at + 1] === high) return slot
      slot = (slot + 1) & this.#mask
    }
  }
}
