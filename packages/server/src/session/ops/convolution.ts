/** Convolutions and pooling. */
import { nameOf, type OpNode, RESULT } from "./OpNode.ts"
import {
  anything,
  type Check,
  FLOAT,
  f32,
  INT_MAX,
  type OpRules,
  ruled,
  tensor,
  training,
  type Work,
} from "./rule.ts"
import { F32, f16OrF32 } from "./types.ts"

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

/** A distance that a kernel of ggml keeps in an `int`. */
const intStride = (n: OpNode, tensorIndex: number, dim: number): string =>
  n.must(
    n.ne(tensorIndex, dim) === 1 || n.nb(tensorIndex, dim) <= INT_MAX,
    `${nameOf(tensorIndex)}.nb[${dim}] must be below 2^31`,
  )

/** What a kernel of ggml counts in an `int`. */
const intCount = (n: OpNode, count: number, what: string): string =>
  n.must(count <= INT_MAX, `${what} must be below 2^31`)

/** Rows that follow upon each other: planes are taken for dense. */
const densePlanes = (n: OpNode, tensorIndex: number): string =>
  n.must(
    n.ne(tensorIndex, 1) === 1 || n.nb(tensorIndex, 1) === n.rowBytes(tensorIndex),
    `${nameOf(tensorIndex)} must have contiguous planes`,
  )

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
      intStride(n, image, 1) ||
      intStride(n, image, 2) ||
      n.shape(columns, area, width, n.ne(image, 2), 1)
    )
  }
  const height = convolved(n.ne(image, 1), n.ne(kernel, 1), n.param(1), n.param(3), n.param(5))
  return (
    n.sameDim(image, 2, kernel, 2) ||
    densePlanes(n, image) ||
    intStride(n, image, 2) ||
    intStride(n, image, 3) ||
    n.shape(columns, area * n.ne(kernel, 2), width, height, n.ne(image, 3))
  )
}

const im2col: Check = (n) =>
  (n.type(RESULT) === F32 ? n.typed(1, F32) : "") || columnsOf(n, 0, 1, RESULT)

const im2col3d: Check = (n) => {
  const wrong = convParams(n, 0, 3, 6) || n.range(9, 1, INT_MAX)
  if (wrong !== "") return wrong
  const channels = n.param(9)
  const size = (dim: number): number =>
    convolved(n.ne(1, dim), n.ne(0, dim), n.param(dim), n.param(3 + dim), n.param(6 + dim))
  return n.shape(
    RESULT,
    n.ne(0, 0) * n.ne(0, 1) * n.ne(0, 2) * channels,
    size(0),
    size(1),
    size(2) * Math.floor(n.ne(1, 3) / channels),
  )
}

const col2im1d: Check = (n) => {
  const wrong =
    n.range(0, 1, INT_MAX) ||
    n.range(1, 1, INT_MAX) ||
    n.range(2, 0, 2 ** 24) ||
    n.matrix(0) ||
    n.sameType(RESULT, 0)
  if (wrong !== "") return wrong
  const channels = n.param(1)
  const kernel = n.ne(0, 0) / channels
  const length = (n.ne(0, 1) - 1) * n.param(0) + kernel - 2 * n.param(2)
  return (
    n.must(Number.isInteger(kernel) && kernel > 0, "op_params[1] must divide src[0].ne[0]") ||
    n.shape(RESULT, length, channels, 1, 1)
  )
}

/** Elements of both sources are counted in an `int` where they are copied to. */
const intSources = (n: OpNode): string =>
  intCount(n, n.elements(0), "the elements of src[0]") ||
  intCount(n, n.ne(1, 0) * n.ne(1, 1) * n.ne(1, 2), "the elements of a batch of src[1]")

const convTranspose1d: Check = (n) =>
  n.range(0, 1, INT_MAX) ||
  n.range(1, 0, 0) ||
  n.range(2, 1, 1) ||
  n.matrix(1) ||
  n.sameDim(0, 2, 1, 1) ||
  n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions") ||
  intSources(n) ||
  n.shape(RESULT, (n.ne(1, 0) - 1) * n.param(0) + n.ne(0, 0), n.ne(0, 1), 1, 1)

const convTranspose2d: Check = (n) =>
  n.range(0, 1, INT_MAX) ||
  n.sameDim(0, 3, 1, 2) ||
  densePlanes(n, 0) ||
  intSources(n) ||
  n.shape(
    RESULT,
    (n.ne(1, 0) - 1) * n.param(0) + n.ne(0, 0),
    (n.ne(1, 1) - 1) * n.param(0) + n.ne(0, 1),
    n.ne(0, 2),
    n.ne(1, 3),
  )

/** `GGML_IM2COL_WORK_SIZE`. */
const IM2COL_WORK = 16 * 1024 * 1024

/** One position of the result, with all that the kernel sees there, fits into work memory. */
const patchFits = (n: OpNode, inputs: number, filters: number): string =>
  n.must(
    inputs * n.typeSize(0) + filters * FLOAT <= IM2COL_WORK,
    `src[0] must take at most ${IM2COL_WORK} bytes a position`,
  )

/** Width and height of a two-dimensional convolution: params s0 s1 p0 p1 d0 d1. */
const convolved2d = (n: OpNode, dim: 0 | 1): number =>
  convolved(n.ne(1, dim), n.ne(0, dim), n.param(dim), n.param(2 + dim), n.param(4 + dim))

const conv2d: Check = (n) =>
  convParams(n, 0, 2, 4) ||
  n.sameDim(0, 2, 1, 2) ||
  patchFits(n, n.ne(0, 0) * n.ne(0, 1) * n.ne(0, 2), n.ne(0, 3)) ||
  n.shape(RESULT, convolved2d(n, 0), convolved2d(n, 1), n.ne(0, 3), n.ne(1, 3))

/** Channels next to each other, then columns, rows and batches, and nothing between. */
const hasChannelsFirst = (n: OpNode, tensorIndex: number): boolean => {
  const column = n.ne(tensorIndex, 2) * n.typeSize(tensorIndex)
  const row = n.ne(tensorIndex, 0) * column
  return (
    n.nb(tensorIndex, 2) === n.typeSize(tensorIndex) &&
    n.nb(tensorIndex, 0) === column &&
    n.nb(tensorIndex, 1) === row &&
    (n.ne(tensorIndex, 3) === 1 || n.nb(tensorIndex, 3) === n.ne(tensorIndex, 1) * row)
  )
}

/** What is left of `ggml_is_contiguous_channels` then. */
const hasGrowingStrides = (n: OpNode): boolean => n.nb(1, 0) > n.nb(1, 2) && n.nb(1, 1) > n.nb(1, 0)

/** The kernel of CONV_2D_DW, whose channels are its last dimension, lies so. */
const hasFiltersFirst = (n: OpNode): boolean => {
  const size = n.typeSize(0)
  const column = n.ne(0, 3) * size
  const row = n.ne(0, 0) * column
  return (
    (n.ne(0, 3) === 1 || n.nb(0, 3) === size) &&
    (n.ne(0, 0) === 1 || n.nb(0, 0) === column) &&
    (n.ne(0, 1) === 1 || n.nb(0, 1) === row) &&
    n.nb(0, 0) >= n.nb(0, 2) &&
    n.nb(0, 1) >= n.nb(0, 0)
  )
}

/** All three lie the same way: as ggml has them, or with channels first (ops.cpp `ggml_compute_forward_conv_2d_dw`). */
const conv2dDwLayout: Check = (n) =>
  n.isContiguous(1)
    ? n.contiguous(0) || n.contiguous(RESULT)
    : n.must(
        hasChannelsFirst(n, 1) && hasGrowingStrides(n),
        "src[1] must be contiguous, or contiguous by channels",
      ) ||
      n.must(hasFiltersFirst(n), "src[0] must be contiguous by channels, as src[1] is") ||
      n.must(hasChannelsFirst(n, RESULT), "the result must be contiguous by channels, as src[1] is")

const conv2dDw: Check = (n) =>
  convParams(n, 0, 2, 4) ||
  n.must(n.ne(0, 2) === 1, "src[0].ne[2] must be 1") ||
  n.sameDim(0, 3, 1, 2) ||
  n.shape(RESULT, convolved2d(n, 0), convolved2d(n, 1), n.ne(1, 2), n.ne(1, 3)) ||
  conv2dDwLayout(n)

const conv3d: Check = (n) => {
  const wrong = convParams(n, 0, 3, 6) || n.ranges(9, 11, 1, INT_MAX)
  if (wrong !== "") return wrong
  const size = (dim: number): number =>
    convolved(n.ne(1, dim), n.ne(0, dim), n.param(dim), n.param(3 + dim), n.param(6 + dim))
  const [channels, batch, filters] = [n.param(9), n.param(10), n.param(11)]
  return (
    n.must(n.ne(0, 3) === channels * filters, "src[0].ne[3] must be op_params[9] times [11]") ||
    n.must(n.ne(1, 3) === channels * batch, "src[1].ne[3] must be op_params[9] times [10]") ||
    patchFits(n, n.ne(0, 0) * n.ne(0, 1) * n.ne(0, 2) * channels, filters) ||
    n.shape(RESULT, size(0), size(1), size(2), filters * batch)
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

const pool1d: Check = (n) =>
  n.range(0, 0, 1) ||
  n.ranges(1, 2, 1, INT_MAX) ||
  n.range(3, 0, 2 ** 16) ||
  n.must(
    isPooled(n.ne(RESULT, 0), n.ne(0, 0), n.param(1), n.param(2), n.param(3)),
    "the result's ne[0] must follow from kernel, stride and padding",
  ) ||
  n.shape(RESULT, n.ne(RESULT, 0), n.ne(0, 1), n.ne(0, 2), n.ne(0, 3))

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
  n.shape(pooled, n.ne(pooled, 0), n.ne(pooled, 1), n.ne(image, 2), n.ne(image, 3))

const bothSources: Work = (n) => FLOAT * (n.elements(0) + n.elements(1))

export const convolutionRules = {
  CONV_TRANSPOSE_1D: ruled({
    result: f32("contiguous"),
    sources: [tensor(f16OrF32, "rows"), f32("rows")],
    check: convTranspose1d,
    work: bothSources,
  }),
  IM2COL: ruled({
    result: tensor(f16OrF32, "contiguous"),
    // Of the kernel only its shape is looked at.
    sources: [anything, tensor(f16OrF32, "rows")],
    check: im2col,
  }),
  IM2COL_BACK: training({
    result: f32("contiguous"),
    sources: [f32("contiguous"), tensor(f16OrF32, "strided")],
    check: (n) => columnsOf(n, 1, RESULT, 0),
  }),
  IM2COL_3D: ruled({
    result: tensor(f16OrF32, "contiguous"),
    sources: [anything, f32("rows")],
    check: im2col3d,
  }),
  COL2IM_1D: ruled({
    result: tensor(["F32", "F16", "BF16"], "contiguous"),
    sources: [tensor(["F32", "F16", "BF16"], "contiguous")],
    check: col2im1d,
  }),
  CONV_2D: ruled({
    result: f32("contiguous"),
    sources: [tensor(f16OrF32, "contiguous"), f32("strided")],
    check: conv2d,
    work: () => IM2COL_WORK,
  }),
  CONV_3D: ruled({
    result: f32("contiguous"),
    sources: [tensor(f16OrF32, "contiguous"), f32("strided")],
    check: conv3d,
    work: () => IM2COL_WORK,
  }),
  CONV_2D_DW: ruled({
    result: f32("strided"),
    sources: [tensor(f16OrF32, "strided"), f32("strided")],
    check: conv2dDw,
  }),
  CONV_TRANSPOSE_2D: ruled({
    result: f32("contiguous"),
    sources: [tensor(f16OrF32, "rows"), f32("rows")],
    check: convTranspose2d,
    work: bothSources,
  }),
  POOL_1D: ruled({
    result: f32("packed"),
    sources: [tensor(f16OrF32, "pitched")],
    check: pool1d,
  }),
  // Planes are counted by their bytes (ops.cpp `ggml_compute_forward_pool_2d`): for ever where `nb[2]` is 0.
  POOL_2D: ruled({
    result: f32("contiguous"),
    sources: [tensor(f16OrF32, "exact")],
    check: (n) => pool2dOf(n, 0, RESULT),
  }),
  POOL_2D_BACK: training({
    result: f32("exact"),
    sources: [f32("contiguous"), f32("exact")],
    check: (n) => n.same(RESULT, 1) || pool2dOf(n, RESULT, 0),
  }),
} satisfies OpRules
