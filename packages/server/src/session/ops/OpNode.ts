import { TYPE_BLOCK_SIZE, TYPE_SIZE } from "@ggml-rpc/protocol"
import { byteSize, type Words, word } from "../graph/tensorWords.ts"
import { loadedTypeName } from "../spoken.ts"

/** The node itself, where its sources are 0 to 9. */
export const RESULT = -1

/** A tensor of a node, for messages. */
export const nameOf = (tensor: number): string =>
  tensor === RESULT ? "the result" : `src[${tensor}]`

/** One node and its sources, as the rules see it. A single instance looks at all nodes, one after the other. */
export class OpNode {
  #words: Words = new Uint32Array(0)
  #ints: Int32Array = new Int32Array(0)
  #floats: Float32Array = new Float32Array(0)
  /** Word index of the record of the result, then of each source; -1 is absent. */
  readonly #at = new Int32Array(11)

  /** The payload whose records follow. */
  open(words: Words): void {
    this.#words = words
    this.#ints = new Int32Array(words.buffer, words.byteOffset, words.length)
    this.#floats = new Float32Array(words.buffer, words.byteOffset, words.length)
  }

  /** Looks at a tensor of the next node: `RESULT` or a source, at word `at`, -1 for none. */
  set(tensor: number, at: number): void {
    this.#at[tensor + 1] = at
  }

  // ---- what is there -----------------------------------------------------------------------------

  has(tensor: number): boolean {
    return this.#at[tensor + 1]! >= 0
  }

  ne(tensor: number, dim: number): number {
    return this.#words[this.#at[tensor + 1]! + word.ne + dim]!
  }

  nb(tensor: number, dim: number): number {
    return this.#words[this.#at[tensor + 1]! + word.nb + dim]!
  }

  type(tensor: number): number {
    return this.#words[this.#at[tensor + 1]! + word.type]!
  }

  param(index: number): number {
    return this.#ints[this.#at[0]! + word.opParams + index]!
  }

  floatParam(index: number): number {
    return this.#floats[this.#at[0]! + word.opParams + index]!
  }

  elements(tensor: number): number {
    return this.ne(tensor, 0) * this.rows(tensor)
  }

  rows(tensor: number): number {
    return this.ne(tensor, 1) * this.ne(tensor, 2) * this.ne(tensor, 3)
  }

  bytes(tensor: number): number {
    return byteSize(this.#words, this.#at[tensor + 1]!)
  }

  typeSize(tensor: number): number {
    return TYPE_SIZE[this.type(tensor)]!
  }

  isQuantized(tensor: number): boolean {
    return TYPE_BLOCK_SIZE[this.type(tensor)]! > 1
  }

  /** `ggml_is_contiguous`. */
  isContiguous(tensor: number): boolean {
    const blockSize = TYPE_BLOCK_SIZE[this.type(tensor)]!
    let next = this.typeSize(tensor)
    if (this.ne(tensor, 0) !== blockSize && this.nb(tensor, 0) !== next) return false
    next *= this.ne(tensor, 0) / blockSize
    for (let dim = 1; dim < 4; dim++) {
      const ne = this.ne(tensor, dim)
      if (ne === 1) continue
      if (this.nb(tensor, dim) !== next) return false
      next *= ne
    }
    return true
  }

  isShape(tensor: number, ne0: number, ne1: number, ne2: number, ne3: number): boolean {
    return (
      this.ne(tensor, 0) === ne0 &&
      this.ne(tensor, 1) === ne1 &&
      this.ne(tensor, 2) === ne2 &&
      this.ne(tensor, 3) === ne3
    )
  }

  // ---- what must hold: "" or what is wrong --------------------------------------------------------

  must(holds: boolean, what: string): string {
    return holds ? "" : what
  }

  /** `tensor` has these dimensions. */
  shape(tensor: number, ne0: number, ne1: number, ne2: number, ne3: number): string {
    return this.isShape(tensor, ne0, ne1, ne2, ne3)
      ? ""
      : `${nameOf(tensor)} must be ne[${ne0},${ne1},${ne2},${ne3}]`
  }

  /** Both have the same dimensions. */
  same(first: number, second: number): string {
    for (let dim = 0; dim < 4; dim++) {
      if (this.ne(first, dim) !== this.ne(second, dim)) {
        return `${nameOf(first)} must have the shape of ${nameOf(second)}`
      }
    }
    return ""
  }

  sameDim(first: number, firstDim: number, second: number, secondDim: number): string {
    return this.ne(first, firstDim) === this.ne(second, secondDim)
      ? ""
      : `${nameOf(first)}.ne[${firstDim}] must be ${nameOf(second)}.ne[${secondDim}]`
  }

  /** Dimension `dim` of `small` divides that of `large`. */
  divides(small: number, smallDim: number, large: number, largeDim: number): string {
    return this.ne(large, largeDim) % this.ne(small, smallDim) === 0
      ? ""
      : `${nameOf(small)}.ne[${smallDim}] must divide ${nameOf(large)}.ne[${largeDim}]`
  }

  /** `ggml_can_repeat`: `small` fits into `large` a whole number of times in each dimension. */
  repeats(small: number, large: number): string {
    if (this.elements(small) === 0) {
      return this.must(this.elements(large) === 0, `${nameOf(small)} must not be empty`)
    }
    return (
      this.divides(small, 0, large, 0) ||
      this.divides(small, 1, large, 1) ||
      this.divides(small, 2, large, 2) ||
      this.divides(small, 3, large, 3)
    )
  }

  typed(tensor: number, first: number, second = first, third = first): string {
    const type = this.type(tensor)
    if (type === first || type === second || type === third) return ""
    const names = [...new Set([first, second, third])].map((id) => loadedTypeName(id))
    return `${nameOf(tensor)} must be ${names.join(" or ")}`
  }

  sameType(first: number, second: number): string {
    return this.type(first) === this.type(second)
      ? ""
      : `${nameOf(first)} must have the type of ${nameOf(second)}`
  }

  contiguous(tensor: number): string {
    return this.isContiguous(tensor) ? "" : `${nameOf(tensor)} must be contiguous`
  }

  /** `nb[0]` is the size of an element. */
  denseRows(tensor: number): string {
    return this.nb(tensor, 0) === this.typeSize(tensor)
      ? ""
      : `${nameOf(tensor)} must have contiguous rows`
  }

  scalar(tensor: number): string {
    return this.shape(tensor, 1, 1, 1, 1)
  }

  vector(tensor: number): string {
    return this.must(this.rows(tensor) === 1, `${nameOf(tensor)} must have one dimension`)
  }

  matrix(tensor: number): string {
    return this.must(
      this.ne(tensor, 2) === 1 && this.ne(tensor, 3) === 1,
      `${nameOf(tensor)} must have two dimensions`,
    )
  }

  /** op_params[index] as an integer lies in a range. */
  range(index: number, min: number, max: number): string {
    const value = this.param(index)
    return value >= min && value <= max
      ? ""
      : `op_params[${index}] must be ${min} to ${max}, not ${value}`
  }

  ranges(first: number, last: number, min: number, max: number): string {
    for (let index = first; index <= last; index++) {
      const wrong = this.range(index, min, max)
      if (wrong !== "") return wrong
    }
    return ""
  }
}
