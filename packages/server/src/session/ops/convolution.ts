/** Convolutions and pooling. */
import { nameOf, type OpNode, RESULT } from "./OpNode.ts"
import {
  anything,
  type Check,
  FLOAT,
  INT_MAX,
  type OpRules,
  ruled,
  training,
  type Work,
} from "./rule.ts"
import { BF16, F16, F32 } from "./types.ts"

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

const im2col: Check = (n) => n.typed(RESULT, F16, F32) || columnsOf(n, 0, 1, RESULT)

const im2colBack: Check = (n) =>
  n.typed(RESULT, F32) || n.contiguous(RESULT) || columnsOf(n, 1, RESULT, 0)

const im2col3d: Check = (n) => {
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

const col2im1d: Check = (n) => {
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

const convTranspose1d: Check = (n) =>
  n.range(0, 1, INT_MAX) ||
  n.matrix(1) ||
  n.sameDim(0, 2, 1, 1) ||
  n.must(n.ne(0, 3) === 1, "src[0] must have three dimensions") ||
  n.typed(RESULT, F32) ||
  n.shape(RESULT, (n.ne(1, 0) - 1) * n.param(0) + n.ne(0, 0), n.ne(0, 1), 1, 1) ||
  n.contiguous(RESULT)

const convTranspose2d: Check = (n) =>
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

const conv2d: Check = (n) =>
  convParams(n, 0, 2, 4) ||
  n.sameDim(0, 2, 1, 2) ||
  n.sameType(RESULT, 1) ||
  n.shape(RESULT, convolved2d(n, 0), convolved2d(n, 1), n.ne(0, 3), n.ne(1, 3)) ||
  n.contiguous(RESULT)

const conv2dDw: Check = (n) =>
  convParams(n, 0, 2, 4) ||
  n.must(n.ne(0, 2) === 1, "src[0].ne[2] must be 1") ||
  n.sameDim(0, 3, 1, 2) ||
  n.sameType(RESULT, 1) ||
  n.shape(RESULT, convolved2d(n, 0), convolved2d(n, 1), n.ne(1, 2), n.ne(1, 3))

const conv3d: Check = (n) => {
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

const pool1d: Check = (n) =>
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

const bothSources: Work = (n) => FLOAT * (n.elements(0) + n.elements(1))

/** `GGML_IM2COL_WORK_SIZE`. */
const IM2COL_WORK = 16 * 1024 * 1024

export const convolutionRules = {
  CONV_TRANSPOSE_1D: ruled({
    result: anything,
    sources: [anything, anything],
    check: convTranspose1d,
    work: bothSources,
  }),
  IM2COL: ruled({ result: anything, sources: [anything, anything], check: im2col }),
  IM2COL_BACK: training({ result: anything, sources: [anything, anything], check: im2colBack }),
  IM2COL_3D: ruled({ result: anything, sources: [anything, anything], check: im2col3d }),
  COL2IM_1D: ruled({ result: anything, sources: [anything], check: col2im1d }),
  CONV_2D: ruled({
    result: anything,
    sources: [anything, anything],
    check: conv2d,
    work: () => IM2COL_WORK,
  }),
  CONV_3D: ruled({
    result: anything,
    sources: [anything, anything],
    check: conv3d,
    work: () => IM2COL_WORK,
  }),
  CONV_2D_DW: ruled({ result: anything, sources: [anything, anything], check: conv2dDw }),
  CONV_TRANSPOSE_2D: ruled({
    result: anything,
    sources: [anything, anything],
    check: convTranspose2d,
    work: bothSources,
  }),
  POOL_1D: ruled({ result: anything, sources: [anything], check: pool1d }),
  POOL_2D: ruled({ result: anything, sources: [anything], check: (n) => pool2dOf(n, 0, RESULT) }),
  POOL_2D_BACK: training({
    result: anything,
    sources: [anything, anything],
    check: (n) => n.same(RESULT, 1) || pool2dOf(n, RESULT, 0),
  }),
} satisfies OpRules
