type Fields = Readonly<Record<string, unknown>>

/**
 * A base class for errors that are plain data: as Effect's `Data.TaggedError`, so that `catchTag` finds
 * them, without the import of Effect, which processes that run one synchronous loop do without.
 *
 * @example
 * ```ts
 * class LostError extends TaggedError("LostError")<{ readonly place: string }> {}
 * ```
 */
export const TaggedError = <const Tag extends string>(tag: Tag) => {
  class Tagged extends Error {
    readonly _tag = tag

    constructor(fields: Fields) {
      super()
      Object.assign(this, fields)
    }
  }
  Tagged.prototype.name = tag
  return Tagged as unknown as new <F extends Fields>(
    fields: F,
  ) => Error & { readonly _tag: Tag } & Readonly<F>
}
