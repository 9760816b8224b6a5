import * as Data from "effect/Data"

/**
 * What is wrong with a GGUF file:
 * - `missing`: there is no such file (also: a part of a split model is not there)
 * - `unreadable`: it exists, but cannot be opened or read (a directory, no permission, an I/O error)
 * - `not-gguf`: it does not start with the magic
 * - `unsupported-version`: GGUF v1, a version after v3, or big-endian
 * - `truncated`: it ends before what its header announces
 * - `malformed`: its header contradicts itself or announces the impossible
 * - `not-first-part`: a later part of a split model was named instead of the first
 * - `unwritable`: it could not be written
 */
export type GgufErrorReason =
  | "missing"
  | "unreadable"
  | "not-gguf"
  | "unsupported-version"
  | "truncated"
  | "malformed"
  | "not-first-part"
  | "unwritable"

/** A GGUF file that cannot be used; `message` says in one sentence what is wrong and what to do. */
export class GgufError extends Data.TaggedError("GgufError")<{
  readonly path: string
  readonly reason: GgufErrorReason
  readonly message: string
}> {}
