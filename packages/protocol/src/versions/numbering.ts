import { type TypeInfo, types } from "../codec/types.ts"

/*
 * How ggml numbers its operations, kinds of operations and types. The array index is the id. Numbers belong to a build of
 * ggml, not to a protocol version: some versions span several. New ones were only ever inserted, so an older numbering is
 * a newer one without some names. Facts: ggml.h of each release, and ggml's history between them.
 */

/** The numbers that a build of ggml gives; an empty name is a number that must not be used. */
export interface Numbering {
  /** What tells builds apart: `ops.length`, with the count of unary operations where that is not enough. */
  readonly name: string
  /** `ggml_op` without `GGML_OP_`. */
  readonly ops: readonly string[]
  /** `ggml_unary_op`: `opParams[0]` of a UNARY node. */
  readonly unaryOps: readonly string[]
  /** `ggml_glu_op`: `opParams[0]` of a GLU node. */
  readonly gluOps: readonly string[]
  readonly types: readonly TypeInfo[]
}

/** All operations, in the order of every build. */
export const opNames = [
  "NONE",
  "DUP",
  "ADD",
  "ADD_ID",
  "ADD1",
  "ACC",
  "SUB",
  "MUL",
  "DIV",
  "SQR",
  "SQRT",
  "LOG",
  "SIN",
  "COS",
  "SUM",
  "SUM_ROWS",
  "CUMSUM",
  "MEAN",
  "ARGMAX",
  "COUNT_EQUAL",
  "REPEAT",
  "REPEAT_BACK",
  "CONCAT",
  "SILU_BACK",
  "NORM",
  "RMS_NORM",
  "RMS_NORM_BACK",
  "GROUP_NORM",
  "L2_NORM",
  "MUL_MAT",
  "MUL_MAT_ID",
  "OUT_PROD",
  "SCALE",
  "SET",
  "CPY",
  "CONT",
  "RESHAPE",
  "VIEW",
  "PERMUTE",
  "TRANSPOSE",
  "GET_ROWS",
  "GET_ROWS_BACK",
  "SET_ROWS",
  "DIAG",
  "DIAG_MASK_INF",
  "DIAG_MASK_ZERO",
  "SOFT_MAX",
  "SOFT_MAX_BACK",
  "ROPE",
  "ROPE_BACK",
  "CLAMP",
  "CONV_TRANSPOSE_1D",
  "IM2COL",
  "IM2COL_BACK",
  "IM2COL_3D",
  "COL2IM_1D",
  "CONV_2D",
  "CONV_3D",
  "CONV_2D_DW",
  "CONV_TRANSPOSE_2D",
  "POOL_1D",
  "POOL_2D",
  "POOL_2D_BACK",
  "UPSCALE",
  "PAD",
  "PAD_REFLECT_1D",
  "ROLL",
  "ARANGE",
  "TIMESTEP_EMBEDDING",
  "ARGSORT",
  "TOP_K",
  "LEAKY_RELU",
  "TRI",
  "FILL",
  "FLASH_ATTN_EXT",
  "FLASH_ATTN_BACK",
  "SSM_CONV",
  "SSM_SCAN",
  "WIN_PART",
  "WIN_UNPART",
  "GET_REL_POS",
  "ADD_REL_POS",
  "RWKV_WKV6",
  "GATED_LINEAR_ATTN",
  "RWKV_WKV7",
  "SOLVE_TRI",
  "GATED_DELTA_NET",
  "LIGHTNING_INDEXER",
  "DSV4_HC_COMB",
  "DSV4_HC_PRE",
  "DSV4_HC_POST",
  "UNARY",
  "MAP_CUSTOM1",
  "MAP_CUSTOM2",
  "MAP_CUSTOM3",
  "CUSTOM",
  "CROSS_ENTROPY_LOSS",
  "CROSS_ENTROPY_LOSS_BACK",
  "OPT_STEP_ADAMW",
  "OPT_STEP_SGD",
  "GLU",
] as const

/** All unary operations. */
export const unaryOpNames = [
  "ABS",
  "SGN",
  "NEG",
  "STEP",
  "TANH",
  "ELU",
  "RELU",
  "SIGMOID",
  "GELU",
  "GELU_QUICK",
  "SILU",
  "HARDSWISH",
  "HARDSIGMOID",
  "EXP",
  "EXPM1",
  "SOFTPLUS",
  "GELU_ERF",
  "XIELU",
  "FLOOR",
  "CEIL",
  "ROUND",
  "TRUNC",
] as const

/** All gated linear units. */
export const gluOpNames = [
  "REGLU",
  "GEGLU",
  "SWIGLU",
  "SWIGLU_OAI",
  "GEGLU_ERF",
  "GEGLU_QUICK",
  "SWIGLU_CLAMP",
] as const

/** Name of an operation, of any version. */
export type OpName = (typeof opNames)[number]
export type UnaryOpName = (typeof unaryOpNames)[number]
export type GluOpName = (typeof gluOpNames)[number]
export type TypeName = (typeof types)[number]["name"]

interface Missing {
  readonly ops?: readonly OpName[]
  readonly unaryOps?: readonly UnaryOpName[]
  readonly gluOps?: readonly GluOpName[]
  readonly types?: readonly TypeName[]
}

/** An older build: all of a newer one but these names. */
const without = (newer: Numbering, missing: Missing): Numbering => {
  const keep = (names: readonly string[], gone: readonly string[] = []): readonly string[] =>
    names.filter((name) => !gone.includes(name))
  const ops = keep(newer.ops, missing.ops)
  const unaryOps = keep(newer.unaryOps, missing.unaryOps)
  const gone: readonly string[] = missing.types ?? []
  return {
    name: nameOf(ops, unaryOps),
    ops,
    unaryOps,
    gluOps: keep(newer.gluOps, missing.gluOps),
    types: newer.types.filter((type) => !gone.includes(type.name)),
  }
}

const nameOf = (ops: readonly string[], unaryOps: readonly string[]): string =>
  `${ops.length} operations, ${unaryOps.length} unary`

/** llama.cpp v0.4.0 and later; the ggml that these packages load (v0.5.0) is one of them. */
export const ops101: Numbering = {
  name: nameOf(opNames, unaryOpNames),
  ops: opNames,
  unaryOps: unaryOpNames,
  gluOps: gluOpNames,
  types,
}

/** ggml 06aab01f, 2026-07-17. */
export const ops101WithoutClamp: Numbering = without(ops101, { gluOps: ["SWIGLU_CLAMP"] })

/** ggml 13f4e9ff, 2026-07-11. */
export const ops98: Numbering = without(ops101WithoutClamp, {
  ops: ["DSV4_HC_COMB", "DSV4_HC_PRE", "DSV4_HC_POST"],
})

/** ggml d962a305, 2026-06-09. Q2_0 came later (fcfe6389), and nothing tells whether a build has it. */
export const ops97: Numbering = without(ops98, { ops: ["LIGHTNING_INDEXER"], types: ["Q2_0"] })

/** ggml b17872cf, 2026-04-15. */
export const ops96: Numbering = without(ops97, { ops: ["COL2IM_1D"] })

/** ggml 36ae4059, 2026-03-07. NVFP4 and Q1_0 came later (ac55e3cd, b5dafbb0). */
export const ops96WithoutNvfp4: Numbering = without(ops96, { types: ["NVFP4", "Q1_0"] })

/** ggml 905e247c, 2025-11-25. */
export const ops95: Numbering = without(ops96WithoutNvfp4, { ops: ["GATED_DELTA_NET"] })

/** ggml f45db474, 2025-11-13. */
export const ops94: Numbering = without(ops95, { ops: ["TOP_K"] })

/** ggml 9715e19c, 2025-10-15. */
export const ops90With20Unary: Numbering = without(ops94, {
  ops: ["CUMSUM", "TRI", "FILL", "SOLVE_TRI"],
  unaryOps: ["EXPM1", "SOFTPLUS"],
})

/** ggml 24ab9563, 2025-10-02. */
export const ops90With16Unary: Numbering = without(ops90With20Unary, {
  unaryOps: ["FLOOR", "CEIL", "ROUND", "TRUNC"],
})

/** ggml 0e2040fb, 2025-09-04. */
export const ops90: Numbering = without(ops90With16Unary, { unaryOps: ["XIELU"] })

/** ggml e18c2497, 2025-08-22. */
export const ops89: Numbering = without(ops90, { ops: ["IM2COL_3D"] })

/** ggml 1d894481, 2025-08-14. */
export const ops88: Numbering = without(ops89, { ops: ["CONV_3D"] })

/** ggml 3b145175, 2025-08-05. */
export const ops87: Numbering = without(ops88, { ops: ["OPT_STEP_SGD"] })

/**
 * What is the same in all of `numberings`: a number that means something else, or nothing, in one of them is left empty.
 * For a peer of which nobody knows which of them it is.
 */
export const commonNumbering = (numberings: readonly Numbering[]): Numbering => {
  const [first, ...others] = numberings
  if (first === undefined) throw new RangeError("there is no numbering to choose from")
  if (others.length === 0) return first
  const common = (pick: (numbering: Numbering) => readonly string[]): readonly string[] =>
    pick(first).map((name, id) => (others.every((other) => pick(other)[id] === name) ? name : ""))
  return {
    name: `common to ${numberings.map(({ name }) => name).join("; ")}`,
    ops: common(({ ops }) => ops),
    unaryOps: common(({ unaryOps }) => unaryOps),
    gluOps: common(({ gluOps }) => gluOps),
    types: first.types.filter((type) => others.every((other) => other.types.includes(type))),
  }
}
