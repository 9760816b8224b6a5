/** The most likely tokens of a context's outputs, found on the device that has the logits. */
import type { Pointer } from "bun:ffi"
import { type Address, asPointer } from "./io.ts"
import { llama } from "./libllama.ts"

/** Tokens that are found at least: more than samplers keep as a rule, so that texts with other samplers need no other graph. */
const LEAST_COUNT = 64

/** Whether a device finds as many tokens of a vocabulary as are looked for. */
export const findsCandidates = (device: Address, vocabSize: number): boolean =>
  llama().ls_candidates_supported(asPointer(device), vocabSize, LEAST_COUNT) !== 0

/** For each sequence of a context, whether its outputs are all logits or only those of the most likely tokens. */
export class DeviceCandidates {
  readonly #library = llama()
  /** By sequence: how many are found, and the sampler that does it; undefined: all logits come. */
  readonly #samplers: Array<{ readonly count: number; readonly chain: Pointer } | undefined>

  constructor(sequenceCount: number) {
    this.#samplers = Array.from({ length: sequenceCount }, () => this.#make(LEAST_COUNT))
  }

  /** What a context is made with. */
  get chains(): BigUint64Array {
    return BigUint64Array.from(this.#samplers, (sampler) => BigInt(sampler?.chain ?? 0))
  }

  /** From now on at least `count` of the most likely tokens come for a sequence; 0: all. */
  want(sequence: number, count: number, context: Pointer): void {
    const current = this.#samplers[sequence]
    if (count === 0 ? current === undefined : current !== undefined && current.count >= count) {
      return
    }
    const next = count === 0 ? undefined : this.#make(Math.max(LEAST_COUNT, count))
    this.#library.llama_set_sampler(context, sequence, next?.chain ?? null)
    this.#samplers[sequence] = next
    if (current !== undefined) this.#library.llama_sampler_free(current.chain)
  }

  /** When the context is freed. */
  release(): void {
    for (const sampler of this.#samplers) {
      if (sampler !== undefined) this.#library.llama_sampler_free(sampler.chain)
    }
    this.#samplers.length = 0
  }

  #make(count: number) {
    return { count, chain: this.#library.ls_candidates_new(count) as Pointer }
  }
}
