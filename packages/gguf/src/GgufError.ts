/**
 * What is wrong with a GGUF file:
 * - `missing`: there is no such file (also: a part of a split model is not there)
 * - `unreadable`: it exists, but cannot be opened or read (a directory, no permission, an I/O error; a
 *   server that refuses it)
 * - `unreachable`: its server does not answer, breaks off or fails, after several attempts
 * - `no-ranges`: its server gives whole files only
 * - `bad-answer`: its server answers something else than what it was asked for
 * - `not-gguf`: it does not start with the magic
 * - `unsupported-version`: GGUF v1, a version after v3, or big-endian
 * - `unknown-type`: a tensor has a type of ggml's that this release does not know
 * - `truncated`: it ends before what its header announces
 * - `malformed`: its header contradicts itself or announces the impossible
 * - `not-first-part`: a later part of a split model was named instead of the first
 * - `unwritable`: it could not be written
 */
export type GgufErrorReason =
  | "missing"
  | "unreadable"
  | "unreachable"
  | "no-ranges"
  | "bad-answer"
  | "not-gguf"
  | "unsupported-version"
  | "unknown-type"
  | "truncated"
  | "malformed"
  | "not-first-part"
  | "unwritable"

export interface GgufErrorFields {
  /** The file's path, or its URL without user name, password and query. */
  readonly path: string
  readonly reason: GgufErrorReason
  readonly message: string
}

/**
 * A GGUF file that cannot be used; `message` says in one sentence what is wrong and what to do. The
 * only error that reading and writing throw. Effect's `catchTag` finds it by `_tag`.
 */
export class GgufError extends Error {
  readonly _tag = "GgufError"
  readonly path: string
  readonly reason: GgufErrorReason

  constructor(fields: GgufErrorFields) {
    super(fields.message)
    this.path = fields.path
    this.reason = fields.reason
  }
}
GgufError.prototype.name = "GgufError"
