/** The program was called in a way it does not understand; exit code 2. */
export class UsageError extends Error {
  readonly _tag = "UsageError"
  override readonly name = "UsageError"
}
