/**
 * One rule for each operation of ggml.c (llama.cpp v0.5.0), written by its name. What is missing runs no kernel, or is
 * refused before (function pointers).
 */
import { arithmeticRules } from "./arithmetic.ts"
import { attentionRules } from "./attention.ts"
import { convolutionRules } from "./convolution.ts"
import { hyperConnectionsRules } from "./hyperConnections.ts"
import { matrixRules } from "./matrix.ts"
import { rearrangeRules } from "./rearrange.ts"
import { recurrentRules } from "./recurrent.ts"
import { rowsRules } from "./rows.ts"
import type { OpRules } from "./rule.ts"
import { trainingRules } from "./training.ts"

export const opRules: OpRules = {
  ...arithmeticRules,
  ...rowsRules,
  ...matrixRules,
  ...rearrangeRules,
  ...convolutionRules,
  ...attentionRules,
  ...recurrentRules,
  ...hyperConnectionsRules,
  ...trainingRules,
}

/**
 * The entries of a table by name, by op id: `ops` are the names that a ggml gives its ids. Undefined where the table has
 * none.
 *
 * @throws {Error} when the table names an operation that this ggml does not have
 */
export const byOpId = <A>(
  table: Readonly<Record<string, A>>,
  ops: readonly string[],
): readonly (A | undefined)[] => {
  for (const name of Object.keys(table)) {
    if (!ops.includes(name)) throw new Error(`the rules name ${name}, which is no operation`)
  }
  return ops.map((name) => table[name])
}
