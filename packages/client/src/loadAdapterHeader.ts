import { type GgufError, type GgufFile, ggufString } from "@ggml-rpc/gguf"
import * as Effect from "effect/Effect"
import { ModelError } from "./errors.ts"
import { loadGguf } from "./loadGguf.ts"

/** The header of a LoRA adapter for this model: what is none, or for another one, is told before a weight is sent. */
export const loadAdapterHeader = (
  path: string,
  model: GgufFile,
): Effect.Effect<GgufFile, GgufError | ModelError> =>
  Effect.flatMap(loadGguf(path), (adapter) => {
    const problem = whyNotFor(model, adapter)
    return problem === undefined
      ? Effect.succeed(adapter)
      : Effect.fail(new ModelError({ path, during: "load", detail: problem }))
  })

/** As llama-adapter.cpp (v0.5.0) has it. */
const whyNotFor = (model: GgufFile, adapter: GgufFile): string | undefined => {
  if (ggufString(adapter, "general.type") !== "adapter") {
    return "it is no adapter (LoRA); give the adapter that belongs to the model."
  }
  const wanted = ggufString(model, "general.architecture")
  const architecture = ggufString(adapter, "general.architecture")
  return architecture === wanted
    ? undefined
    : `it is an adapter for models of the architecture ${architecture}, and ${model.path} is one of ${wanted}.`
}
