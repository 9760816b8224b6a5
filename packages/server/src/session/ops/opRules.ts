/**
 * What ggml's constructors guarantee of each operation, and its kernels rely on: shapes of sources and
 * result, types where a kernel takes them for granted, parameters that divide, count or index. Kernels
 * assert a part of it, which ends the process, and read or write out of bounds for the rest.
 *
 * One rule per operation of ggml.c (7.0.0). A rule gives "" or what is wrong.
 */
import { TYPE_BLOCK_SIZE, TYPE_SIZE } from "@ggml-rpc/protocol"
import { byteSize, type Words, word } from "../graph/tensorWords.ts"
import { loaded, loadedOpId, loadedTypeId, loadedTypeName } from "../spoken.ts"

/** The node itself, where its sources are 0 to 9. */
export const RESULT = -1

const F32 = loadedTypeId("F32")
const F16 = loadedTypeId("F16")
const BF16 = loadedTypeId("BF16")
const I32 = loadedTypeId("I32")
const I64 = loadedTypeId("I64")

const nameOf = (tensor: number): string => (tensor === RESULT ? "the result" : `src[${tensor}]`)

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

type Rule = (node: OpNode) => string

const INT_MAX = 2 ** 31 - 1

/** The result has the shape of the first source: operations on each element or row. */
const elementwise: Rule = (n) => n.same(RESULT, 0)

const binary: Rule = (n) => n.same(RESULT, 0) || n.repeats(1, 0)

const sameNumber: Rule = (n) =>
  n.must(n.elements(RESULT) === n.elements(0), "the result must have as many elements as src[0]")

const copy: Rule = (n) =>
  sameNumber(n) ||
  // Quantized rows are copied by blocks, not by elements.
  (n.isQuantized(0) ? n.denseRows(0) : "") ||
  (n.isQuantized(RESULT) ? n.denseRows(RESULT) : "") ||
  (n.isQuantized(0) && !n.isContiguous(RESULT) ? n.sameDim(RESULT, 0, 0, 0) : "")

/** DUP and CONT keep the type: no kernel converts into every type. */
const copyOfType: Rule = (n) => n.sameType(RESULT, 0) || copy(n)

/** ACC and SET write src[1] into a view of the result that op_params describe. */
const intoView: Rule = (n) => {
  const wrong =
    n.same(RESULT, 0) || n.contiguous(RESULT) || n.contiguous(0) || n.ranges(0, 3, 0, INT_MAX)
  if (wrong !== "" || n.elements(1) === 0) return wrong
  let reach = n.param(3) + n.ne(1, 0) * n.typeSize(RESULT)
  for (let dim = 1; dim < 4; dim++) reach += (n.ne(1, dim) - 1) * n.param(dim - 1)
  return n.must(
    reach <= n.bytes(RESULT) && n.elements(1) <= n.elements(0),
    "op_params must describe a view inside the result",
  )
}

const rowsToOne: Rule = (n) => n.shape(RESULT, 1, n.ne(0, 1), n.ne(0, 2), n.ne(0, 3))

const concat: Rule = (n) => {
  const wrong = n.range(0, 0, 3) || n.sameType(RESULT, 0) || n.sameType(1, 0)
  if (wrong !== "") return wrong
  const along = n.param(0)
  for (let dim = 0; dim < 4; dim++) {
    const sum = n.ne(0, dim) + n.ne(1, dim)
    if (dim !== along && n.ne(0, dim) !== n.ne(1, dim)) return n.sameDim(1, dim, 0, dim)
    if (n.ne(RESULT, dim) !== (dim === along ? sum : n.ne(0, dim))) {
      return `the result's ne[${dim}] must be that of both sources together`
    }
  }
  return n.contiguous(RESULT)
}

const mulMat: Rule = (n) =>
  n.sameDim(0, 0, 1, 0) ||
  n.divides(0, 2, 1, 2) ||
  n.divides(0, 3, 1, 3) ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, n.ne(0, 1), n.ne(1, 1), n.ne(1, 2), n.ne(1, 3)) ||
  n.contiguous(RESULT)

const mulMatId: Rule = (n) =>
  n.typed(2, I32) ||
  n.must(n.ne(0, 3) === 1 && n.ne(1, 3) === 1, "src[0] and src[1] must have three dimensions") ||
  n.matrix(2) ||
  n.sameDim(2, 1, 1, 2) ||
  n.sameDim(0, 0, 1, 0) ||
  n.divides(1, 1, 2, 0) ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, n.ne(0, 1), n.ne(2, 0), n.ne(1, 2), 1) ||
  n.contiguous(RESULT)

const outProd: Rule = (n) =>
  n.sameDim(0, 1, 1, 1) ||
  n.divides(0, 2, 1, 2) ||
  n.divides(0, 3, 1, 3) ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, n.ne(0, 0), n.ne(1, 0), n.ne(1, 2), n.ne(1, 3))

const getRows: Rule = (n) =>
  n.typed(1, I32) ||
  n.sameDim(0, 2, 1, 1) ||
  n.sameDim(0, 3, 1, 2) ||
  n.must(n.ne(1, 3) === 1, "src[1] must have three dimensions") ||
  n.typed(RESULT, n.type(0) === I32 ? I32 : F32) ||
  n.shape(RESULT, n.ne(0, 0), n.ne(1, 0), n.ne(1, 1), n.ne(1, 2))

const setRows: Rule = (n) =>
  n.typed(0, F32, F16) ||
  n.typed(1, I64, I32) ||
  n.sameDim(RESULT, 0, 0, 0) ||
  n.sameDim(RESULT, 2, 0, 2) ||
  n.sameDim(RESULT, 3, 0, 3) ||
  n.sameDim(1, 0, 0, 1) ||
  n.divides(1, 1, 0, 2) ||
  n.divides(1, 2, 0, 3) ||
  n.must(n.ne(1, 3) === 1, "src[1] must have three dimensions") ||
  n.denseRows(0) ||
  n.denseRows(RESULT) ||
  (n.has(2) ? n.same(RESULT, 2) : "")

const softMax: Rule = (n) =>
  n.same(RESULT, 0) ||
  n.contiguous(0) ||
  (n.has(1)
    ? n.typed(1, F16, F32) ||
      n.contiguous(1) ||
      n.sameDim(1, 0, 0, 0) ||
      n.must(n.ne(1, 1) >= n.ne(0, 1), "src[1].ne[1] must be at least src[0].ne[1]") ||
      n.divides(1, 2, 0, 2) ||
      n.divides(1, 3, 0, 3)
    : n.must(!(n.floatParam(1) > 0), "op_params[1] needs src[1]")) ||
  (n.has(2) ? n.typed(2, F32) || n.sameDim(2, 0, 0, 2) || n.denseRows(2) : "")

const ROPE_MROPE = 8
const ROPE_VISION = 24

const rope: Rule = (n) => {
  const mode = n.param(2)
  const isVision = mode === ROPE_VISION
  const perToken = (mode & ROPE_MROPE) === 0 ? 1 : 4
  const dims = n.param(1)
  const width = n.ne(0, 0)
  return (
    n.same(RESULT, 0) ||
    n.vector(1) ||
    n.typed(1, I32) ||
    n.must(
      n.ne(1, 0) === n.ne(0, 2) * perToken,
      `src[1].ne[0] must be src[0].ne[2] times ${perToken}`,
    ) ||
    n.range(1, 0, isVision ? Math.floor(width / 2) : width) ||
    n.range(15, 0, isVision ? 0 : width - dims) ||
    (n.has(2)
      ? n.typed(2, F32) || n.must(n.ne(2, 0) >= dims / 2, "src[2] must have a factor per pair")
      : "")
  )
}

/** `ggml_calc_conv_output_size`, whose division rounds towards 0 as C's does. */
const convolved = (
  size: number,
  kernel: number,
  stride: number,
  pad: number,
  dilation: number,
): number => Math.trunc((size + 2 * pad - dilation * (kernel - 1) - 1) / stride) + 1

/** Strides and dilations are at least 1, paddings at least 0. */
const convParams = (n: OpNode, strides: number, pads: number, dilations: number): string => {
  const count = pads - strides
  return (
    n.ranges(strides, strides + count - 1, 1, INT_MAX) ||
    n.ranges(pads, pads + count - 1, 0, 2 ** 24) ||
    n.ranges(dilations, dilations + count - 1, 1, INT_MAX)
  )
}

/** IM2COL of a kernel over an image; `columns` has the shape of its result. */
const columnsOf = (n: OpNode, kernel: number, image: number, columns: number): string => {
  const is2d = n.param(6) === 1
  const wrong =
    n.range(6, 0, 1) ||
    n.range(0, 1, INT_MAX) ||
    n.range(2, 0, 2 ** 24) ||
    n.range(4, 1, INT_MAX) ||
    (is2d ? n.range(1, 1, INT_MAX) || n.range(3, 0, 2 ** 24) || n.range(5, 1, INT_MAX) : "")
  if (wrong !== "") return wrong
  const width = convolved(n.ne(image, 0), n.ne(kernel, 0), n.param(0), n.param(2), n.param(4))
  const area = n.ne(kernel, 0) * n.ne(kernel, 1)
  if (!is2d) {
    return (
      n.sameDim(image, 1, kernel, 1) ||
      n.must(n.ne(image, 3) === 1, `${nameOf(image)} must have three dimensions`) ||
      n.shape(columns, area, width, n.ne(image, 2), 1) ||
      n.contiguous(columns)
    )
  }
  const height = convolved(n.ne(image, 1), n.ne(kernel, 1), n.param(1), n.param(3), n.param(5))
  return (
    n.sameDim(image, 2, kernel, 2) ||
    n.shape(columns, area * n.ne(kernel, 2), width, height, n.ne(image, 3)) ||
    n.contiguous(columns)
  )
}

const im2col: Rule = (n) => n.typed(RESULT, F16, F32) || columnsOf(n, 0, 1, RESULT)

const im2colBack: Rule = (n) =>
  n.typed(RESULT, F32) || n.contiguous(RESULT) || columnsOf(n, 1, RESULT, 0)

const im2col3d: Rule = (n) => {
  const wrong = convParams(n, 0, 3, 6) || n.range(9, 1, INT_MAX) || n.typed(RESULT, F16, F32)
  if (wrong !== "") return wrong
  const channels = n.param(9)
  const size = (dim: number): number =>
    convolved(n.ne(1, dim), n.ne(0, dim), n.param(dim), n.param(3 + dim), n.param(6 + dim))
  return (
    n.shape(
      RESULT,
      n.ne(0, 0) * n.ne(0, 1) * n.ne(0, 2) * channels,
      size(0),
      size(1),
      size(2) * Math.floor(n.ne(1, 3) / channels),
    ) || n.contiguous(RESULT)
  )
}

const col2im1d: Rule = (n) => {
  const wrong =
    n.range(0, 1, INT_MAX) ||
    n.range(1, 1, INT_MAX) ||
    n.range(2, 0, 2 ** 24) ||
    n.matrix(0) ||
    n.contiguous(0) ||
    n.typed(0, F32, F16, BF16) ||
    n.sameType(RESULT, 0)
  if (wrong !== "") return wrong
  const channels = n.param(1)
  const kernel = n.ne(0, 0) / channels
  const length = (n.ne(0, 1) - 1) * n.param(0) + kernel - 2 * n.param(2)
  return (
    n.must(Number.isInteger(kernel) && kernel > 0, "op_params[1] must divide src[0].ne[0]") ||
    n.shape(RESULT, length, channels, 1, 1) ||
    n.contiguous(RESULT)
  )
}

const convTranspose1d: Rule = (n) =>
  n.range(0, 1, INT_MAX) ||
  n.matrix(1) ||
  n.sameDim(0, 2, 1, 1) ||
  n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions") ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, (n.ne(1, 0) - 1) * n.param(0) + n.ne(0, 0), n.ne(0, 1), 1, 1) ||
  n.contiguous(RESULT)

const convTranspose2d: Rule = (n) =>
  n.range(0, 1, INT_MAX) ||
  n.sameDim(0, 3, 1, 2) ||
  n.typed(RESULT, F32) ||
  n.shape(
    RESULT,
    (n.ne(1, 0) - 1) * n.param(0) + n.ne(0, 0),
    (n.ne(1, 1) - 1) * n.param(0) + n.ne(0, 1),
    n.ne(0, 2),
    n.ne(1, 3),
  ) ||
  n.contiguous(RESULT)

/** Width and height of a two-dimensional convolution: params s0 s1 p0 p1 d0 d1. */
const convolved2d = (n: OpNode, dim: 0 | 1): number =>
  convolved(n.ne(1, dim), n.ne(0, dim), n.param(dim), n.param(2 + dim), n.param(4 + dim))

const conv2d: Rule = (n) =>
  convParams(n, 0, 2, 4) ||
  n.sameDim(0, 2, 1, 2) ||
  n.sameType(RESULT, 1) ||
  n.shape(RESULT, convolved2d(n, 0), convolved2d(n, 1), n.ne(0, 3), n.ne(1, 3)) ||
  n.contiguous(RESULT)

const conv2dDw: Rule = (n) =>
  convParams(n, 0, 2, 4) ||
  n.must(n.ne(0, 2) === 1, "src[0].ne[2] must be 1") ||
  n.sameDim(0, 3, 1, 2) ||
  n.sameType(RESULT, 1) ||
  n.shape(RESULT, convolved2d(n, 0), convolved2d(n, 1), n.ne(1, 2), n.ne(1, 3))

const conv3d: Rule = (n) => {
  const wrong = convParams(n, 0, 3, 6) || n.ranges(9, 11, 1, INT_MAX) || n.typed(RESULT, F32)
  if (wrong !== "") return wrong
  const size = (dim: number): number =>
    convolved(n.ne(1, dim), n.ne(0, dim), n.param(dim), n.param(3 + dim), n.param(6 + dim))
  const [channels, batch, filters] = [n.param(9), n.param(10), n.param(11)]
  return (
    n.must(n.ne(0, 3) === channels * filters, "src[0].ne[3] must be op_params[9] times [11]") ||
    n.must(n.ne(1, 3) === channels * batch, "src[1].ne[3] must be op_params[9] times [10]") ||
    n.shape(RESULT, size(0), size(1), size(2), filters * batch) ||
    n.contiguous(RESULT)
  )
}

/** `ggml_calc_pool_output_size`; the padding may have been a half, which op_params do not show. */
const isPooled = (
  pooled: number,
  size: number,
  kernel: number,
  stride: number,
  pad: number,
): boolean =>
  pooled > 0 &&
  (pooled === Math.trunc((size + 2 * pad - kernel) / stride + 1) ||
    pooled === Math.trunc((size + 2 * pad + 1 - kernel) / stride + 1))

const pool1d: Rule = (n) =>
  n.range(0, 0, 1) ||
  n.ranges(1, 2, 1, INT_MAX) ||
  n.range(3, 0, 2 ** 16) ||
  n.must(
    isPooled(n.ne(RESULT, 0), n.ne(0, 0), n.param(1), n.param(2), n.param(3)),
    "the result's ne[0] must follow from kernel, stride and padding",
  ) ||
  n.shape(RESULT, n.ne(RESULT, 0), n.ne(0, 1), n.ne(0, 2), n.ne(0, 3)) ||
  n.typed(RESULT, F32) ||
  n.contiguous(RESULT)

/** `pooled` is what pooling makes of `image`: params op k0 k1 s0 s1 p0 p1. */
const pool2dOf = (n: OpNode, image: number, pooled: number): string =>
  n.range(0, 0, 1) ||
  n.ranges(1, 4, 1, INT_MAX) ||
  n.ranges(5, 6, 0, 2 ** 16) ||
  n.must(
    isPooled(n.ne(pooled, 0), n.ne(image, 0), n.param(1), n.param(3), n.param(5)) &&
      isPooled(n.ne(pooled, 1), n.ne(image, 1), n.param(2), n.param(4), n.param(6)),
    `ne[0] and ne[1] of ${nameOf(pooled)} must follow from kernel, stride and padding`,
  ) ||
  n.shape(pooled, n.ne(pooled, 0), n.ne(pooled, 1), n.ne(image, 2), n.ne(image, 3)) ||
  n.typed(RESULT, F32) ||
  n.contiguous(RESULT)

const pad: Rule = (n) => {
  const wrong = n.ranges(0, 7, 0, 2 ** 30)
  if (wrong !== "") return wrong
  const isCircular = n.param(8) !== 0
  for (let dim = 0; dim < 4; dim++) {
    const [before, after] = [n.param(2 * dim), n.param(2 * dim + 1)]
    if (n.ne(RESULT, dim) !== n.ne(0, dim) + before + after) {
      return `the result's ne[${dim}] must be src[0]'s with its padding`
    }
    if (isCircular && Math.max(before, after) > n.ne(0, dim)) {
      return `the padding of ne[${dim}] must not be larger than it`
    }
  }
  return n.contiguous(RESULT)
}

const padReflect1d: Rule = (n) =>
  n.ranges(0, 1, 0, n.ne(0, 0) - 1) ||
  n.contiguous(0) ||
  n.typed(0, F32) ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, n.ne(0, 0) + n.param(0) + n.param(1), n.ne(0, 1), n.ne(0, 2), n.ne(0, 3))

const roll: Rule = (n) => {
  for (let dim = 0; dim < 4; dim++) {
    const wrong = n.range(dim, 1 - n.ne(0, dim), n.ne(0, dim) - 1)
    if (wrong !== "") return wrong
  }
  return n.same(RESULT, 0) || n.sameType(RESULT, 0) || n.denseRows(0)
}

const flashAttention: Rule = (n) =>
  n.sameDim(1, 0, 0, 0) ||
  n.sameDim(2, 1, 1, 1) ||
  n.divides(1, 2, 0, 2) ||
  n.divides(2, 2, 0, 2) ||
  n.sameDim(1, 3, 0, 3) ||
  n.sameDim(2, 3, 0, 3) ||
  (n.has(3)
    ? n.typed(3, F16) ||
      n.contiguous(3) ||
      n.must(n.ne(3, 0) >= n.ne(1, 1), "src[3].ne[0] must be at least src[1].ne[1]") ||
      n.must(n.ne(3, 1) >= n.ne(0, 1), "src[3].ne[1] must be at least src[0].ne[1]") ||
      n.divides(3, 2, 0, 2) ||
      n.divides(3, 3, 0, 3)
    : n.must(!(n.floatParam(1) > 0), "op_params[1] needs src[3]")) ||
  (n.has(4) ? n.typed(4, F32) || n.sameDim(4, 0, 0, 2) : "") ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, n.ne(2, 0), n.ne(0, 2), n.ne(0, 1), n.ne(0, 3)) ||
  n.contiguous(RESULT)

const ssmConv: Rule = (n) =>
  n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions") ||
  n.matrix(1) ||
  n.sameDim(0, 1, 1, 1) ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, n.ne(1, 1), n.ne(0, 0) - n.ne(1, 0) + 1, n.ne(0, 2), 1) ||
  n.contiguous(RESULT)

const ssmScan: Rule = (n) => {
  const [state, head, heads, tokens, sequences] = [
    n.ne(0, 0),
    n.ne(1, 0),
    n.ne(1, 1),
    n.ne(1, 2),
    n.ne(1, 3),
  ]
  return (
    n.range(0, 1, INT_MAX) ||
    n.contiguous(0) ||
    n.contiguous(2) ||
    n.contiguous(3) ||
    n.denseRows(1) ||
    n.denseRows(4) ||
    n.denseRows(5) ||
    n.same(4, 5) ||
    n.typed(6, I32) ||
    n.vector(6) ||
    n.shape(2, heads, tokens, sequences, 1) ||
    n.must(n.ne(0, 1) === head && n.ne(0, 2) === heads, "src[0] must be a state per head") ||
    n.must(
      n.ne(4, 0) === state && n.ne(4, 2) === tokens && n.ne(4, 3) === sequences,
      "src[4] must have a column per token",
    ) ||
    n.divides(4, 1, 1, 1) ||
    n.must(n.ne(6, 0) === sequences, "src[6] must name a state per sequence") ||
    n.matrix(3) ||
    n.sameDim(3, 1, 1, 1) ||
    n.must(
      n.ne(3, 0) === 1 || (n.ne(3, 0) === state && n.param(0) === 1),
      "src[3].ne[0] must be 1 or src[0].ne[0]",
    ) ||
    n.typed(RESULT, F32) ||
    n.shape(RESULT, n.elements(1) + n.param(0) * state * head * heads * sequences, 1, 1, 1)
  )
}

const windowCount = (size: number, window: number): number => Math.ceil(size / window)

const winPart: Rule = (n) => {
  const wrong =
    n.range(2, 1, INT_MAX) || n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions")
  if (wrong !== "") return wrong
  const window = n.param(2)
  const [across, down] = [windowCount(n.ne(0, 1), window), windowCount(n.ne(0, 2), window)]
  return (
    n.range(0, across, across) ||
    n.range(1, down, down) ||
    n.typed(0, F32) ||
    n.typed(RESULT, F32) ||
    n.shape(RESULT, n.ne(0, 0), window, window, across * down) ||
    n.contiguous(0) ||
    n.contiguous(RESULT)
  )
}

const winUnpart: Rule = (n) => {
  const wrong = n.range(0, 1, INT_MAX) || n.typed(0, F32) || n.typed(RESULT, F32)
  if (wrong !== "") return wrong
  const window = n.param(0)
  const count = windowCount(n.ne(RESULT, 1), window) * windowCount(n.ne(RESULT, 2), window)
  return (
    n.shape(0, n.ne(RESULT, 0), window, window, count) ||
    n.must(n.ne(RESULT, 3) === 1, "the result must have three dimensions") ||
    n.contiguous(0) ||
    n.contiguous(RESULT)
  )
}

const getRelPos: Rule = (n) =>
  n.typed(RESULT, F16) ||
  n.must(
    n.ne(RESULT, 1) === n.ne(RESULT, 2) && 2 * n.ne(RESULT, 1) - 1 === n.ne(0, 1),
    "src[0].ne[1] must be twice the result's ne[1] less 1",
  ) ||
  n.shape(RESULT, n.ne(0, 0), n.ne(RESULT, 1), n.ne(RESULT, 2), 1) ||
  n.contiguous(0) ||
  n.contiguous(RESULT)

const addRelPos: Rule = (n) =>
  n.same(RESULT, 0) ||
  n.same(1, 2) ||
  n.typed(0, F32) ||
  n.typed(RESULT, F32) ||
  n.typed(1, F32) ||
  n.typed(2, F32) ||
  n.contiguous(0) ||
  n.contiguous(1) ||
  n.contiguous(2) ||
  n.contiguous(RESULT) ||
  n.sameDim(1, 3, 0, 2) ||
  n.must(n.ne(1, 0) ** 2 === n.ne(0, 0), "src[0].ne[0] must be the square of src[1].ne[0]") ||
  n.must(
    n.ne(1, 1) * n.ne(1, 2) === n.ne(0, 1),
    "src[0].ne[1] must be src[1]'s ne[1] times ne[2]",
  ) ||
  n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions")

/** RWKV and gated linear attention: `perToken` sources [S, H, T], a state, and a result behind one another. */
const recurrent =
  (keys: number, perToken: readonly number[], state: number): Rule =>
  (n) => {
    const [size, heads, tokens, sequences] = [
      n.ne(keys, 0),
      n.ne(keys, 1),
      n.ne(keys, 2),
      n.ne(state, 1),
    ]
    for (const source of perToken) {
      const wrong =
        n.typed(source, F32) || n.contiguous(source) || n.shape(source, size, heads, tokens, 1)
      if (wrong !== "") return wrong
    }
    return (
      n.typed(state, F32) ||
      n.contiguous(state) ||
      n.must(
        n.elements(state) === size * size * heads * sequences,
        `src[${state}] must be a state per head and sequence`,
      ) ||
      n.must(
        sequences > 0 && tokens >= sequences && tokens % sequences === 0,
        `src[${state}].ne[1] must divide the number of tokens`,
      ) ||
      n.typed(RESULT, F32) ||
      n.shape(RESULT, size * heads, tokens + size * sequences, 1, 1) ||
      n.contiguous(RESULT)
    )
  }

const wkv6Attention = recurrent(0, [0, 1, 2, 4], 5)

const wkv6: Rule = (n) =>
  wkv6Attention(n) ||
  n.typed(3, F32) ||
  n.contiguous(3) ||
  n.must(n.elements(3) === n.ne(0, 0) * n.ne(0, 1), "src[3] must have a value per head and channel")

const solveTri: Rule = (n) =>
  n.typed(0, F32) ||
  n.typed(1, F32) ||
  n.contiguous(0) ||
  n.contiguous(1) ||
  n.sameDim(0, 0, 0, 1) ||
  n.sameDim(1, 1, 0, 1) ||
  n.sameDim(1, 2, 0, 2) ||
  n.sameDim(1, 3, 0, 3) ||
  n.same(RESULT, 1) ||
  n.contiguous(RESULT)

const gatedDeltaNet: Rule = (n) => {
  const [size, heads, tokens, sequences] = [n.ne(2, 0), n.ne(2, 1), n.ne(2, 2), n.ne(2, 3)]
  for (let source = 0; source < 6; source++) {
    const wrong = n.typed(source, F32) || (source < 3 ? n.denseRows(source) : n.contiguous(source))
    if (wrong !== "") return wrong
  }
  return (
    n.range(0, 1, INT_MAX) ||
    n.same(0, 1) ||
    n.sameDim(0, 0, 2, 0) ||
    n.divides(0, 1, 2, 1) ||
    n.sameDim(0, 2, 2, 2) ||
    n.divides(0, 3, 2, 3) ||
    n.must(n.ne(3, 0) === 1 || n.ne(3, 0) === size, "src[3].ne[0] must be 1 or src[2].ne[0]") ||
    n.shape(3, n.ne(3, 0), heads, tokens, sequences) ||
    n.shape(4, 1, heads, tokens, sequences) ||
    n.shape(5, size, size, heads, sequences) ||
    n.typed(RESULT, F32) ||
    n.shape(RESULT, size * heads, tokens * sequences + n.param(0) * size * sequences, 1, 1) ||
    n.contiguous(RESULT)
  )
}

const lightningIndexer: Rule = (n) =>
  n.typed(0, F32) ||
  n.typed(2, F32) ||
  n.typed(3, F16) ||
  n.sameDim(1, 0, 0, 0) ||
  n.must(n.ne(1, 1) === 1, "src[1].ne[1] must be 1") ||
  n.sameDim(1, 3, 0, 3) ||
  n.shape(2, n.ne(0, 1), n.ne(0, 2), 1, n.ne(0, 3)) ||
  n.shape(3, n.ne(1, 2), n.ne(0, 2), 1, n.ne(3, 3)) ||
  n.divides(3, 3, 2, 3) ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, n.ne(1, 2), n.ne(0, 2), 1, n.ne(0, 3)) ||
  n.contiguous(RESULT)

/** The only width of hyper-connections that ggml has kernels for. */
const HYPER_CONNECTIONS = 4
const HYPER_MIX = HYPER_CONNECTIONS * (HYPER_CONNECTIONS + 2)

const hyperCombine: Rule = (n) =>
  n.typed(0, F32) ||
  n.typed(1, F32) ||
  n.typed(2, F32) ||
  n.range(1, 1, INT_MAX) ||
  n.shape(0, HYPER_MIX, n.ne(0, 1), 1, 1) ||
  n.vector(1) ||
  n.must(n.ne(1, 0) >= 3, "src[1] must have three elements") ||
  n.shape(2, HYPER_MIX, 1, 1, 1) ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, HYPER_CONNECTIONS, HYPER_CONNECTIONS, n.ne(0, 1), 1) ||
  n.contiguous(RESULT)

const hyperBefore: Rule = (n) => {
  const [width, streams, tokens] = [n.ne(0, 0), n.ne(0, 1), n.ne(0, 2)]
  return (
    n.typed(0, F32) ||
    n.typed(1, F32) ||
    n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions") ||
    (n.param(1) !== 0
      ? n.shape(1, width, streams, tokens, 1)
      : n.shape(1, streams, tokens, 1, 1)) ||
    n.typed(RESULT, F32) ||
    n.shape(RESULT, width, tokens, 1, 1) ||
    n.contiguous(RESULT)
  )
}

const hyperAfter: Rule = (n) => {
  const [width, tokens, streams] = [n.ne(0, 0), n.ne(0, 1), n.ne(1, 1)]
  return (
    n.typed(0, F32) ||
    n.typed(1, F32) ||
    n.typed(2, F32) ||
    n.matrix(0) ||
    n.shape(1, width, streams, tokens, 1) ||
    n.shape(2, streams, tokens, 1, 1) ||
    (n.has(3) ? n.typed(3, F32) || n.shape(3, streams, streams, tokens, 1) : "") ||
    n.typed(RESULT, F32) ||
    n.shape(RESULT, width, streams, tokens, 1) ||
    n.contiguous(RESULT)
  )
}

const glu: Rule = (n) =>
  n.sameType(RESULT, 0) ||
  n.denseRows(0) ||
  (n.has(1)
    ? n.same(0, 1) || n.sameType(1, 0) || n.denseRows(1) || n.same(RESULT, 0)
    : n.shape(RESULT, Math.floor(n.ne(0, 0) / 2), n.ne(0, 1), n.ne(0, 2), n.ne(0, 3))) ||
  n.denseRows(RESULT)

const optimizer =
  (moments: readonly number[], parameters: number, count: number): Rule =>
  (n) => {
    for (const source of moments) {
      const wrong = n.same(source, 0)
      if (wrong !== "") return wrong
    }
    return (
      n.same(RESULT, 0) ||
      n.typed(parameters, F32) ||
      n.must(n.elements(parameters) === count, `src[${parameters}] must have ${count} elements`)
    )
  }

/** How many leading sources an operation's kernels read without looking, and what must hold of them. */
interface Requirement {
  readonly sourceCount: number
  readonly rule: Rule
}

const requirement = (sourceCount: number, rule: Rule): Requirement => ({ sourceCount, rule })

/** By operation; what is missing runs no kernel, or is refused before (function pointers). */
const table: Readonly<Record<string, Requirement>> = {
  DUP: requirement(1, copyOfType),
  ADD: requirement(2, binary),
  ADD_ID: requirement(
    3,
    (n) =>
      n.same(RESULT, 0) ||
      n.typed(2, I32) ||
      n.sameDim(1, 0, 0, 0) ||
      n.sameDim(2, 0, 0, 1) ||
      n.sameDim(2, 1, 0, 2),
  ),
  ADD1: requirement(2, (n) => n.same(RESULT, 0) || n.scalar(1)),
  ACC: requirement(2, intoView),
  SUB: requirement(2, binary),
  MUL: requirement(2, binary),
  DIV: requirement(2, binary),
  SQR: requirement(1, elementwise),
  SQRT: requirement(1, elementwise),
  LOG: requirement(1, elementwise),
  SIN: requirement(1, elementwise),
  COS: requirement(1, elementwise),
  SUM: requirement(1, (n) => n.scalar(RESULT)),
  SUM_ROWS: requirement(1, rowsToOne),
  CUMSUM: requirement(1, elementwise),
  MEAN: requirement(1, rowsToOne),
  ARGMAX: requirement(
    1,
    (n) => n.typed(RESULT, I32) || n.matrix(0) || n.shape(RESULT, n.ne(0, 1), 1, 1, 1),
  ),
  COUNT_EQUAL: requirement(2, (n) => n.same(1, 0) || n.typed(RESULT, I64) || n.scalar(RESULT)),
  REPEAT: requirement(1, (n) => n.sameType(RESULT, 0) || n.repeats(0, RESULT)),
  REPEAT_BACK: requirement(1, (n) => n.sameType(RESULT, 0) || n.repeats(RESULT, 0)),
  CONCAT: requirement(2, concat),
  SILU_BACK: requirement(2, (n) => n.same(RESULT, 0) || n.same(1, 0)),
  NORM: requirement(1, elementwise),
  RMS_NORM: requirement(1, elementwise),
  RMS_NORM_BACK: requirement(2, (n) => n.same(RESULT, 0) || n.same(1, 0)),
  GROUP_NORM: requirement(1, (n) => n.range(0, 1, 2 ** 20) || n.same(RESULT, 0)),
  L2_NORM: requirement(1, elementwise),
  MUL_MAT: requirement(2, mulMat),
  MUL_MAT_ID: requirement(3, mulMatId),
  OUT_PROD: requirement(2, outProd),
  SCALE: requirement(1, elementwise),
  SET: requirement(2, intoView),
  CPY: requirement(1, copy),
  CONT: requirement(1, copyOfType),
  GET_ROWS: requirement(2, getRows),
  GET_ROWS_BACK: requirement(
    2,
    (n) =>
      n.matrix(0) ||
      n.vector(1) ||
      n.typed(1, I32) ||
      n.must(n.ne(0, 1) >= n.ne(1, 0), "src[0] must have a row per index") ||
      n.typed(RESULT, F32) ||
      n.matrix(RESULT) ||
      n.sameDim(RESULT, 0, 0, 0) ||
      n.contiguous(RESULT),
  ),
  SET_ROWS: requirement(2, setRows),
  DIAG: requirement(
    1,
    (n) =>
      n.must(n.ne(0, 1) === 1, "src[0].ne[1] must be 1") ||
      n.shape(RESULT, n.ne(0, 0), n.ne(0, 0), n.ne(0, 2), n.ne(0, 3)),
  ),
  DIAG_MASK_INF: requirement(1, (n) => n.same(RESULT, 0) || n.range(0, 0, INT_MAX)),
  DIAG_MASK_ZERO: requirement(1, (n) => n.same(RESULT, 0) || n.range(0, 0, INT_MAX)),
  SOFT_MAX: requirement(1, softMax),
  SOFT_MAX_BACK: requirement(
    2,
    (n) => n.same(RESULT, 0) || n.same(1, 0) || n.contiguous(0) || n.contiguous(1),
  ),
  ROPE: requirement(2, rope),
  ROPE_BACK: requirement(2, rope),
  CLAMP: requirement(1, elementwise),
  CONV_TRANSPOSE_1D: requirement(2, convTranspose1d),
  IM2COL: requirement(2, im2col),
  IM2COL_BACK: requirement(2, im2colBack),
  IM2COL_3D: requirement(2, im2col3d),
  COL2IM_1D: requirement(1, col2im1d),
  CONV_2D: requirement(2, conv2d),
  CONV_3D: requirement(2, conv3d),
  CONV_2D_DW: requirement(2, conv2dDw),
  CONV_TRANSPOSE_2D: requirement(2, convTranspose2d),
  POOL_1D: requirement(1, pool1d),
  POOL_2D: requirement(1, (n) => pool2dOf(n, 0, RESULT)),
  POOL_2D_BACK: requirement(2, (n) => n.same(RESULT, 1) || pool2dOf(n, RESULT, 0)),
  UPSCALE: requirement(
    1,
    (n) =>
      n.typed(0, F32) ||
      n.typed(RESULT, F32) ||
      n.must(n.elements(0) > 0, "src[0] must not be empty") ||
      n.must((n.param(0) & 0xff) < 3, "op_params[0] must be a known mode"),
  ),
  PAD: requirement(1, pad),
  PAD_REFLECT_1D: requirement(1, padReflect1d),
  ROLL: requirement(1, roll),
  ARANGE: requirement(0, (n) => n.typed(RESULT, F32) || n.vector(RESULT)),
  TIMESTEP_EMBEDDING: requirement(
    1,
    (n) =>
      n.range(0, 1, INT_MAX) ||
      n.range(1, 1, INT_MAX) ||
      n.typed(0, F32) ||
      n.vector(0) ||
      n.typed(RESULT, F32) ||
      n.shape(RESULT, n.param(0), n.ne(0, 0), 1, 1),
  ),
  ARGSORT: requirement(1, (n) => n.typed(RESULT, I32) || n.range(0, 0, 1) || n.same(RESULT, 0)),
  TOP_K: requirement(
    1,
    (n) =>
      n.typed(RESULT, I32) ||
      n.must(n.ne(RESULT, 0) <= n.ne(0, 0), "the result must not be wider than src[0]") ||
      n.shape(RESULT, n.ne(RESULT, 0), n.ne(0, 1), n.ne(0, 2), n.ne(0, 3)),
  ),
  LEAKY_RELU: requirement(1, elementwise),
  TRI: requirement(
    1,
    (n) => n.range(0, 0, 3) || n.sameDim(0, 1, 0, 0) || n.contiguous(0) || n.same(RESULT, 0),
  ),
  FILL: requirement(1, (n) => n.same(RESULT, 0) || n.contiguous(RESULT)),
  FLASH_ATTN_EXT: requirement(3, flashAttention),
  FLASH_ATTN_BACK: requirement(4, () => "ggml has no way to build it in this version"),
  SSM_CONV: requirement(2, ssmConv),
  SSM_SCAN: requirement(7, ssmScan),
  WIN_PART: requirement(1, winPart),
  WIN_UNPART: requirement(1, winUnpart),
  GET_REL_POS: requirement(1, getRelPos),
  ADD_REL_POS: requirement(3, addRelPos),
  UNARY: requirement(1, (n) => n.same(RESULT, 0) || n.denseRows(0) || n.denseRows(RESULT)),
  RWKV_WKV6: requirement(6, wkv6),
  GATED_LINEAR_ATTN: requirement(5, recurrent(0, [0, 1, 2, 3], 4)),
  RWKV_WKV7: requirement(7, recurrent(2, [0, 1, 2, 3, 4, 5], 6)),
  SOLVE_TRI: requirement(2, solveTri),
  GATED_DELTA_NET: requirement(6, gatedDeltaNet),
  LIGHTNING_INDEXER: requirement(4, lightningIndexer),
  DSV4_HC_COMB: requirement(3, hyperCombine),
  DSV4_HC_PRE: requirement(2, hyperBefore),
  DSV4_HC_POST: requirement(3, hyperAfter),
  CROSS_ENTROPY_LOSS: requirement(2, (n) => n.same(1, 0) || n.scalar(RESULT)),
  CROSS_ENTROPY_LOSS_BACK: requirement(3, (n) => n.scalar(0) || n.same(2, 1) || n.same(RESULT, 1)),
  OPT_STEP_ADAMW: requirement(5, optimizer([1, 2, 3], 4, 7)),
  OPT_STEP_SGD: requirement(3, optimizer([1], 2, 2)),
  GLU: requirement(1, glu),
}

/** By op id; undefined runs no kernel. */
export const requirements: readonly (Requirement | undefined)[] = loaded.ops.map(
  (name) => table[name],
)

for (const name of Object.keys(table)) loadedOpId(name)
