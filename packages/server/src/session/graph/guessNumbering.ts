import { type Dialect, ProtocolError } from "@ggml-rpc/protocol"
import type { GraphCheck } from "./GraphCheck.ts"
import type { Words } from "./tensorWords.ts"

/**
 * Checks a graph of a client of which only the version is known, where builds of that version number operations otherwise: in
 * each of the `dialects` that are left. A wrong one takes most graphs for nonsense, as sources and shapes do not fit the
 * operations. The graph is prepared in the first that fits; returns all that do, the same order.
 *
 * @throws {ProtocolError} when none fits, with what the first one says
 */
export const prepareInAny = (
  check: GraphCheck,
  dialects: readonly Dialect[],
  words: Words,
  prepare: () => void,
  sizeBytes: number,
): readonly Dialect[] => {
  // `prepare` works in place.
  const original = words.slice(0, Math.ceil(sizeBytes / 4))
  let firstRefusal: ProtocolError | undefined
  const fits = (dialect: Dialect): boolean => {
    words.set(original)
    check.speak(dialect)
    try {
      prepare()
      return true
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      firstRefusal ??= error
      return false
    }
  }
  const fitting = dialects.filter(fits)
  const [first] = fitting
  if (first === undefined) throw firstRefusal
  fits(first)
  return fitting
}
