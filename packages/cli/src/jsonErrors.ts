import * as Effect from "effect/Effect"
import { ReportedError } from "./errors.ts"
import { printJson } from "./runReport.ts"

/** With `isJson`, an error is an event on stdout too: a program that reads events need not read stderr. */
export const withJsonErrors = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  isJson: boolean,
): Effect.Effect<A, E, R> =>
  isJson
    ? Effect.tapError(effect, (error) =>
        Effect.sync(() => {
          if (!(error instanceof ReportedError)) printErrorEvent(error)
        }),
      )
    : effect

export const printErrorEvent = (error: unknown): void => printJson(errorEvent(error))

const errorEvent = (error: unknown) => {
  if (!(error instanceof Error)) return { event: "error", message: String(error) }
  const { _tag, ...fields } = error as Error & { readonly _tag?: string }
  const { cause: _cause, ...data } = fields as Record<string, unknown>
  return { event: "error", ...data, error: _tag ?? error.name, message: error.message }
}
