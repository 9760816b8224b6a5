import { type Dialect, formatVersion, ProtocolError, shortVersion } from "@ggml-rpc/protocol"
import { refuse } from "../errors.ts"
import type { GraphCheck } from "./GraphCheck.ts"
import { isNumberingProbe } from "./numberingProbe.ts"
import { RECORD_WORDS, type Words, word } from "./tensorWords.ts"

/**
 * Checks a graph of a client of which only the version is known, where builds of that version number operations otherwise: in
 * each of the `dialects` that are left. A wrong one takes most graphs for nonsense, as sources and shapes do not fit the
 * operations. The graph is prepared in the first that fits; returns all that do, the same order.
 *
 * @throws {ProtocolError} when none fits, with what the first one says; when several do that would compute something else
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
  const meanings: Uint32Array[] = []
  const fitting = dialects.filter((dialect) => {
    if (!fits(dialect)) return false
    meanings.push(meaningOf(check, words))
    return true
  })
  const [first] = fitting
  if (first === undefined) throw firstRefusal
  const isOne = meanings.every((meaning) => isSame(meaning, meanings[0]!))
  // Any answer is right that this server keeps to.
  const isProbe = !isOne && check.nodeCount > 0 && isNumberingProbe(original, recordOf(check, 0))
  if (!isOne && !isProbe) refuseAmbiguous(fitting)
  fits(first)
  return isProbe ? [first] : fitting
}

/**
 * Prepares a question in the one of the `dialects` in which most of its nodes make sense: in the client's own, all that it
 * would put into a graph do.
 *
 * @throws {ProtocolError} when it makes sense in none, with what the first one says
 */
export const askInAny = (
  check: GraphCheck,
  dialects: readonly Dialect[],
  words: Words,
  prepare: () => readonly boolean[],
  sizeBytes: number,
): readonly boolean[] => {
  if (dialects.length === 1) return prepare()
  const original = words.slice(0, Math.ceil(sizeBytes / 4))
  const attempt = (dialect: Dialect): readonly boolean[] => {
    words.set(original)
    check.speak(dialect)
    return prepare()
  }
  let firstRefusal: ProtocolError | undefined
  let best: Dialect | undefined
  let mostNodes = -1
  for (const dialect of dialects) {
    try {
      const nodes = attempt(dialect).filter(Boolean).length
      if (nodes > mostNodes) {
        best = dialect
        mostNodes = nodes
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      firstRefusal ??= error
    }
  }
  if (best === undefined) throw firstRefusal
  return attempt(best)
}

/** Word index of a node's record. */
const recordOf = (check: GraphCheck, node: number): number =>
  check.recordsOffset / 4 + (check.nodes[node]! - 1) * RECORD_WORDS

const isSame = (first: Uint32Array, second: Uint32Array): boolean =>
  first.length === second.length && first.every((value, index) => value === second[index])

/** Operation and kind of each node of a prepared graph. */
const meaningOf = (check: GraphCheck, words: Words): Uint32Array => {
  const meaning = new Uint32Array(check.nodeCount * 2)
  for (let node = 0; node < check.nodeCount; node++) {
    const at = recordOf(check, node)
    meaning[node * 2] = words[at + word.op]!
    meaning[node * 2 + 1] = words[at + word.opParams]!
  }
  return meaning
}

const refuseAmbiguous = ([dialect, ...others]: readonly Dialect[]): never => {
  const builds = [dialect!, ...others].map(({ numbering }) => numbering.ops.length)
  const name = `${shortVersion(dialect!.version)}@${builds.at(-1)}`
  return refuse(
    "nodes",
    `may be operations of several builds of protocol ${formatVersion(dialect!.version)}, with ${builds.join(", ")} operations, which number them otherwise: name the client's with --protocol, such as --protocol ${name}`,
  )
}
