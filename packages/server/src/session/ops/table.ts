/**
 * What becomes of every operation that any ggml has had, by its name: it is computed as its rule says, it is never computed, or
 * it is a view. The rules are those of ggml.c and its kernels for CPUs (llama.cpp v0.5.0). A name of `opNames` that is missing
 * here is a type error.
 */
import type { OpName } from "@ggml-rpc/protocol"
import { loaded } from "../spoken.ts"
import { arithmeticRules } from "./arithmetic.ts"
import { attentionRules } from "./attention.ts"
import { CompiledRule } from "./CompiledRule.ts"
import { convolutionRules } from "./convolution.ts"
import { copyRules } from "./copies.ts"
import { hyperConnectionsRules } from "./hyperConnections.ts"
import { matrixRules } from "./matrix.ts"
import { rearrangeRules } from "./rearrange.ts"
import { recurrentRules } from "./recurrent.ts"
import { rowsRules } from "./rows.ts"
import { type OpRule, refused, view } from "./rule.ts"
import { trainingRules } from "./training.ts"

const callback = refused("calls a function of the client, which is never run")

export const opRules: Readonly<Record<OpName, OpRule>> = {
  NONE: view,
  RESHAPE: view,
  VIEW: view,
  PERMUTE: view,
  TRANSPOSE: view,
  MAP_CUSTOM1: callback,
  MAP_CUSTOM2: callback,
  MAP_CUSTOM3: callback,
  CUSTOM: callback,
  ...arithmeticRules,
  ...copyRules,
  ...rowsRules,
  ...matrixRules,
  ...rearrangeRules,
  ...convolutionRules,
  ...attentionRules,
  ...recurrentRules,
  ...hyperConnectionsRules,
  ...trainingRules,
}

/** The rules by op id of the loaded ggml. */
export const rules: readonly CompiledRule[] = loaded.ops.map(
  (name) => new CompiledRule(name, opRules[name as OpName]),
)
