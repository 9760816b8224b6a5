import { type OpNode, RESULT } from "./OpNode.ts"

/** "" or what is wrong with a node. */
export type Check = (node: OpNode) => string

/**
 * What ggml's constructor of an operation guarantees, and its kernels rely on: shapes of sources and result, types
 * where a kernel takes them for granted, parameters that divide, count or index. Kernels assert a part of it, which
 * ends the process, and read or write out of bounds for the rest.
 */
export interface OpRule {
  /** How many leading sources the kernels read without looking. */
  readonly sourceCount: number
  /** Called when these are there. */
  readonly check: Check
  /** What the kernels address memory by: read right before the node runs, each time. */
  readonly indices?: readonly Indices[]
}

/**
 * A source whose every element, I32 or I64, a kernel takes for an index along dimension `dim` of tensor `into`: it must
 * be 0 to ne[dim] - 1. No kernel of ggml's takes -1 for "none".
 */
export interface Indices {
  readonly source: number
  /** A source, or `RESULT`. */
  readonly into: number
  readonly dim: number
}

/** By ggml's name of an operation, without `GGML_OP_`. */
export type OpRules = Readonly<Record<string, OpRule>>

export const rule = (
  sourceCount: number,
  check: Check,
  indices: readonly Indices[] = [],
): OpRule => ({ sourceCount, check, indices })

export const INT_MAX = 2 ** 31 - 1

/** The result has the shape of the first source: operations on each element or row. */
export const elementwise: Check = (n) => n.same(RESULT, 0)
