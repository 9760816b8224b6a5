/** How the graph of a token falls on devices, as libllama's scheduler splits it. */
import type { Pointer } from "bun:ffi"
import type { Address } from "./io.ts"
import { llama } from "./libllama.ts"

/** Nodes that a device does not compute although what they read comes from it. */
export interface RefusedOp {
  /** ggml_op. */
  readonly op: number
  /** ggml_unary_op or ggml_glu_op, of an operation that has kinds; else 0. */
  readonly kind: number
  /** ggml_type of the first source. */
  readonly type: number
  readonly nodeCount: number
}

/** What a device has of the graph of one token with a full cache. */
export interface GraphShare {
  /** Runs of nodes: the graph comes to the device so often. */
  readonly pieceCount: number
  /** Tensor data that goes to the device or comes from it. */
  readonly bytes: number
  readonly refused: ReadonlyArray<RefusedOp>
}

/** Doubles a row of shim/llama_graph.cpp `device_share` and `refused_op`. */
const SHARE_FIELDS = 2
const REFUSED_FIELDS = 5

/** More kinds of refused operations than any model has of all. */
const MAX_REFUSED = 256

/** A share for each device, in their order; undefined when the context has no such graph. It must not compute afterwards. */
export const surveyGraph = (
  context: Pointer,
  devices: ReadonlyArray<Address>,
): ReadonlyArray<GraphShare> | undefined => {
  const shares = new Float64Array(SHARE_FIELDS * devices.length)
  const refused = new Float64Array(REFUSED_FIELDS * MAX_REFUSED)
  const count = llama().ls_graph_survey(
    context,
    BigUint64Array.from(devices, BigInt),
    devices.length,
    shares,
    refused,
    MAX_REFUSED,
  )
  if (count < 0) return undefined
  const rows = Array.from({ length: Math.min(count, MAX_REFUSED) }, (_, row) => {
    const [device, op, kind, type, nodeCount] = refused.subarray(
      row * REFUSED_FIELDS,
    ) as unknown as [number, number, number, number, number]
    return { device, op, kind, type, nodeCount }
  })
  return devices.map((_, index) => ({
    pieceCount: shares[index * SHARE_FIELDS]!,
    bytes: shares[index * SHARE_FIELDS + 1]!,
    refused: rows.filter(({ device }) => device === index).map(({ device: _, ...row }) => row),
  }))
}
