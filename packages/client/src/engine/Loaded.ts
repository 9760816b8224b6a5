import type { LlamaModel, ModelContext } from "@ggml-rpc/native/bindings/llama"
import type { EngineContextOptions } from "./messages.ts"

/** A model and its contexts. */
export interface Loaded {
  readonly model: LlamaModel
  /** One for each group of slots, all alike; one alone where the model was loaded to be measured. */
  readonly contexts: ReadonlyArray<ModelContext>
  /** The first of them. */
  readonly context: ModelContext
  readonly groupCount: number
  readonly path: string
  readonly options: EngineContextOptions
}

/** Tokens that a text can have: a context is made larger than was asked for, and a table of positions is not. */
export const roomOf = ({ context, options }: Loaded): number =>
  Math.min(context.contextSize, options.positionCount ?? Number.POSITIVE_INFINITY)
