import { TYPE_BLOCK_SIZE, TYPE_SIZE } from "@ggml-rpc/protocol"
import { byteSize, readU64, type Words, word } from "../graph/tensorWords.ts"
import { loadedTypeName } from "../spoken.ts"
import type { Layout } from "./layout.ts"

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

  blockSize(tensor: number): number {
    return TYPE_BLOCK_SIZE[this.type(tensor)]!
  }

  isQuantized(tensor: number): boolean {
    return TYPE_BLOCK_SIZE[this.type(tensor)]! > 1
  }

  typeName(tensor: number): string {
    return loadedTypeName(this.type(tensor)) ?? String(this.type(tensor))
  }

  /** Address of the first byte, as its buffer counts. */
  start(tensor: number): number {
    return readU64(this.#words, this.#at[tensor + 1]! + word.data)
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

  hasDenseRows(tensor: number): boolean {
    return this.nb(tensor, 0) === this.typeSize(tensor)
  }

  /** Row r, of all dimensions, lies at r times `nb[1]`. */
  hasRowsAtOneDistance(tensor: number): boolean {
    const pitch = this.nb(tensor, 1)
    const plane = pitch * this.ne(tensor, 1)
    return (
      (this.ne(tensor, 2) === 1 || this.nb(tensor, 2) === plane) &&
      (this.ne(tensor, 3) === 1 || this.nb(tensor, 3) === plane * this.ne(tensor, 2))
    )
  }

  /** Bytes of a dense row. */
  rowBytes(tensor: number): number {
    return (this.ne(tensor, 0) / TYPE_BLOCK_SIZE[this.type(tensor)]!) * this.typeSize(tensor)
  }

  /** Whether start and strides are multiples of a power of 2. */
  isAligned(tensor: number, bytes: number): boolean {
    let all = this.start(tensor) % bytes
    for (let dim = 0; dim < 4; dim++) {
      if (this.ne(tensor, dim) > 1) all |= this.nb(tensor, dim) % bytes
    }
    return all === 0
  }

  /** Whether elements may share bytes: in the order of their strides, each dimension must step over the ones before. */
  overlapsItself(tensor: number): boolean {
    const blocks = this.ne(tensor, 0) / TYPE_BLOCK_SIZE[this.type(tensor)]!
    let extent = this.typeSize(tensor)
    for (let left = 0b1111; left !== 0; ) {
      let least = -1
      for (let dim = 0; dim < 4; dim++) {
        if ((left & (1 << dim)) === 0) continue
        if (least < 0 || this.nb(tensor, dim) < this.nb(tensor, least)) least = dim
      }
      left &= ~(1 << least)
      const count = least === 0 ? blocks : this.ne(tensor, least)
      if (count === 1) continue
      const step = this.nb(tensor, least)
      if (step < extent) return true
      extent += (count - 1) * step
    }
    return false
  }

  /** Whether no byte lies between the first and last of both. */
  areApart(first: number, second: number): boolean {
    if (!this.#areInOneBuffer(first, second)) return true
    const a = this.start(first)
    const b = this.start(second)
    return a + this.bytes(first) <= b || b + this.bytes(second) <= a
  }

  /** On some devices, as Vulkan's, the addresses of each buffer begin anew. */
  #areInOneBuffer(first: number, second: number): boolean {
    const words = this.#words
    const a = this.#at[first + 1]! + word.buffer
    const b = this.#at[second + 1]! + word.buffer
    return words[a] === words[b] && words[a + 1] === words[b + 1]
  }

  /** Whether both are the same elements in the same places. */
  areOne(first: number, second: number): boolean {
    if (!this.#areInOneBuffer(first, second)) return false
    if (this.start(first) !== this.start(second)) return false
    if (this.type(first) !== this.type(second)) return false
    for (let dim = 0; dim < 4; dim++) {
      const ne = this.ne(first, dim)
      if (ne !== this.ne(second, dim)) return false
      if (ne !== 1 && this.nb(first, dim) !== this.nb(second, dim)) return false
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

  /** The length of its rows and their number are at most `max`. */
  isCountable(tensor: number, max: number): string {
    return this.ne(tensor, 0) <= max && this.rows(tensor) <= max
      ? ""
      : `${nameOf(tensor)} must not have more than ${max} rows, or elements in a row`
  }

  lies(tensor: number, layout: Layout): string {
    switch (layout) {
      case "strided":
        return ""
      case "contiguous":
        return this.contiguous(tensor)
      case "rows":
        return this.denseRows(tensor)
      case "pitched":
        return this.denseRows(tensor) || this.rowsAtOneDistance(tensor)
      case "packed":
        return this.packed(tensor)
      case "exact":
        return this.exact(tensor)
    }
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
    return this.hasDenseRows(tensor) ? "" : `${nameOf(tensor)} must have contiguous rows`
  }

  rowsAtOneDistance(tensor: number): string {
    return this.hasRowsAtOneDistance(tensor)
      ? ""
      : `${nameOf(tensor)} must have all rows at the distance nb[1]`
  }

  /** The same of planes and `nb[2]`. */
  planesAtOneDistance(tensor: number): string {
    return this.must(
      this.ne(tensor, 3) === 1 || this.nb(tensor, 3) === this.ne(tensor, 2) * this.nb(tensor, 2),
      `${nameOf(tensor)} must have all planes at the distance nb[2]`,
    )
  }

  /** Kernels assert it, of dimensions of 1 too. */
  growingStrides(tensor: number): string {
    return this.must(
      this.nb(tensor, 0) <= this.nb(tensor, 1) &&
        this.nb(tensor, 1) <= this.nb(tensor, 2) &&
        this.nb(tensor, 2) <= this.nb(tensor, 3),
      `${nameOf(tensor)} must have strides that do not get smaller`,
    )
  }

  /** Contiguous, and so by the strides that count for a kernel which counts rows. */
  packed(tensor: number): string {
    return this.hasDenseRows(tensor) &&
      this.hasRowsAtOneDistance(tensor) &&
      (this.rows(tensor) === 1 || this.nb(tensor, 1) === this.rowBytes(tensor))
      ? ""
      : `${nameOf(tensor)} must be contiguous`
  }

  /** Contiguous, with all the strides of a new tensor. */
  exact(tensor: number): string {
    let holds = this.hasDenseRows(tensor)
    let next = this.rowBytes(tensor)
    for (let dim = 1; dim < 4; dim++) {
      holds &&= this.nb(tensor, dim) === next
      next *= this.ne(tensor, dim)
    }
    return holds ? "" : `${nameOf(tensor)} must have the strides of a new tensor`
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
