import { V7_0_0 } from "./v7/spec.ts"
import type { ProtocolSpec } from "./version.ts"

/** `opName(29)` is `"MUL_MAT"`; `undefined` for an id that the version does not have. */
export const opName = (id: number, spec: ProtocolSpec = V7_0_0): string | undefined => spec.ops[id]

/** The id of an op name (without `GGML_OP_`), or -1 when the version does not have it. */
export const opId = (name: string, spec: ProtocolSpec = V7_0_0): number => spec.ops.indexOf(name)

/** `typeName(12)` is `"Q4_K"`; `undefined` for an id that is unknown or was removed. */
export const typeName = (id: number, spec: ProtocolSpec = V7_0_0): string | undefined =>
  spec.types.find((type) => type.id === id)?.name

/** The id of a type name such as `"Q8_0"`, or -1. */
export const typeId = (name: string, spec: ProtocolSpec = V7_0_0): number =>
  spec.types.find((type) => type.name === name)?.id ?? -1

/** The kind in `opParams[0]` of a UNARY node. */
export const unaryOpName = (id: number, spec: ProtocolSpec = V7_0_0): string | undefined =>
  spec.unaryOps[id]

/** The kind in `opParams[0]` of a GLU node. */
export const gluOpName = (id: number, spec: ProtocolSpec = V7_0_0): string | undefined =>
  spec.gluOps[id]

/**
 * Ops whose `opParams` carry function pointers of the sender. A server must refuse them: running one would jump to an
 * address that a client chose.
 */
export const CALLBACK_OPS: readonly string[] = [
  "MAP_CUSTOM1",
  "MAP_CUSTOM2",
  "MAP_CUSTOM3",
  "CUSTOM",
]
