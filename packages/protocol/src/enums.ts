import { types } from "./codec/types.ts"
import { libraryNumbering } from "./versions/index.ts"
import type { Numbering } from "./versions/numbering.ts"

/** `opName(29)` is `"MUL_MAT"`; `undefined` for a number that means nothing. Default: the ggml that these packages load. */
export const opName = (id: number, numbering: Numbering = libraryNumbering): string | undefined =>
  numbering.ops[id] || undefined

/** The id of an op name (without `GGML_OP_`), or -1. */
export const opId = (name: string, numbering: Numbering = libraryNumbering): number =>
  numbering.ops.indexOf(name)

/** `typeName(12)` is `"Q4_K"`; `undefined` for an id that is unknown or was removed. Ids are the same everywhere. */
export const typeName = (id: number): string | undefined =>
  types.find((type) => type.id === id)?.name

/** The id of a type name such as `"Q8_0"`, or -1. */
export const typeId = (name: string): number => types.find((type) => type.name === name)?.id ?? -1

/** The kind in `opParams[0]` of a UNARY node. */
export const unaryOpName = (
  id: number,
  numbering: Numbering = libraryNumbering,
): string | undefined => numbering.unaryOps[id] || undefined

/** The kind in `opParams[0]` of a GLU node. */
export const gluOpName = (
  id: number,
  numbering: Numbering = libraryNumbering,
): string | undefined => numbering.gluOps[id] || undefined
