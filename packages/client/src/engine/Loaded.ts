import type { LlamaModel, ModelContext } from "@ggml-rpc/native/bindings/llama"
import type { EngineContextOptions } from "./messages.ts"

/** A model and its context. */
export interface Loaded {
  readonly model: LlamaModel
  readonly context: ModelContext
  readonly path: string
  readonly options: EngineContextOptions
}

/** Tokens that a text can have: a context is made larger than was asked for, and a table of positions is not. */
export const roomOf = ({ context, options }: Loaded): number =>
  Math.min(context.contextSize, options.positionCount ?? Number.POSITIVE_INFINITY)
