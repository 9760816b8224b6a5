import type { OpName, TypeName } from "@ggml-rpc/protocol"
import type { Layout } from "./layout.ts"
import { type OpNode, RESULT } from "./OpNode.ts"
import { allTypes } from "./types.ts"

/** "" or what is wrong with a node. */
export type Check = (node: OpNode) => string

/** Bytes that the kernel of an operation takes beside its tensors, at most. */
export type Work = (node: OpNode, threadCount: number) => number

/** A tensor of a node as its kernel takes it. */
export interface TensorRule {
  /** For which the kernels have code. */
  readonly types: readonly TypeName[]
  readonly layout: Layout
  /** A source that may be absent. */
  readonly isOptional?: true
  /** A source that may have no elements though the result has some. */
  readonly mayBeEmpty?: true
  /** Bytes that kernels for CPUs read of a source, from its start on, where these are more than its elements have. */
  readonly reach?: (node: OpNode) => number
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

/**
 * An operation that is computed, if its node is as ggml's constructor makes it and its kernels rely on. Kernels assert a part
 * of it, which ends the process, and read or write out of bounds for the rest.
 */
export interface Ruled {
  readonly kind: "ruled"
  readonly result: TensorRule
  /** What the kernels read, in order. A node may name more sources: they are taken away. */
  readonly sources: readonly TensorRule[]
  /** Sources that the result may lie over, in the same layout; it is apart from all others. */
  readonly inPlace?: readonly number[]
  /** The source that the result is: the kernel writes there. */
  readonly over?: number
  /** Further sources that the kernel changes: they are apart from all other tensors. */
  readonly writes?: readonly number[]
  /** Shapes, parameters and what holds between tensors. Called when the tensors by themselves are right. */
  readonly check?: Check
  /** Absent: none. */
  readonly work?: Work
  /** What the kernels address memory by: read right before the node runs, each time. */
  readonly indices?: readonly Indices[]
  /** Run with `ServeOptions.allowTraining` only. */
  readonly isTraining?: true
}

/** An operation that is never computed. */
export interface Refused {
  readonly kind: "refused"
  readonly reason: string
}

/** The result is its source, or a part of it: nothing is computed. */
export interface View {
  readonly kind: "view"
}

export type OpRule = Ruled | Refused | View

/** By ggml's name of an operation, without `GGML_OP_`. */
export type OpRules = Readonly<Partial<Record<OpName, OpRule>>>

export const ruled = (rule: Omit<Ruled, "kind">): Ruled => ({ kind: "ruled", ...rule })

/** Only training uses it. */
export const training = (rule: Omit<Ruled, "kind" | "isTraining">): Ruled => ({
  kind: "ruled",
  isTraining: true,
  ...rule,
})

export const refused = (reason: string): Refused => ({ kind: "refused", reason })

export const view: View = { kind: "view" }

export const tensor = (types: readonly TypeName[], layout: Layout): TensorRule => ({
  types,
  layout,
})

/** Floats of 32 bits. */
export const f32 = (layout: Layout): TensorRule => tensor(["F32"], layout)

export const anything: TensorRule = tensor(allTypes, "strided")

export const optional = (rule: TensorRule): TensorRule => ({ ...rule, isOptional: true })

export const orEmpty = (rule: TensorRule): TensorRule => ({ ...rule, mayBeEmpty: true })

export const reaching = (rule: TensorRule, reach: (node: OpNode) => number): TensorRule => ({
  ...rule,
  reach,
})

export const INT_MAX = 2 ** 31 - 1

/** The result has the shape of the first source: operations on each element or row. */
export const elementwise: Check = (n) => n.same(RESULT, 0)

/** Bytes of a float, which most work memory holds. */
export const FLOAT = 4

/** A row of floats of `tensor` for each thread. */
export const rowAThread =
  (tensor: number): Work =>
  (node, threadCount) =>
    FLOAT * node.ne(tensor, 0) * threadCount
