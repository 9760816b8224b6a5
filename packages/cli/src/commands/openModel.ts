/** A model that text goes into and comes out of. */
import { type GgufFile, ggufString, loadModelHeader } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { NoTokenizerError } from "../errors.ts"
import { type AccessValues, checkServers } from "./inputs.ts"
import { type GivenModel, modelPath, type NameValues } from "./modelSources.ts"

type SourceValues = NameValues & AccessValues & { readonly rpc: string | undefined }

/** The file of a model, downloaded where it has to be, and its header. */
export const openModel = (given: GivenModel, values: SourceValues, isJson: boolean) =>
  Effect.gen(function* () {
    const path = yield* modelPath(given, values, { isJson }, checkServers(values))
    const gguf = yield* loadModelHeader(path)
    yield* requireTokenizer(gguf)
    return { path, gguf }
  })

const requireTokenizer = (gguf: GgufFile): Effect.Effect<void, NoTokenizerError> =>
  hasTokenizer(gguf) ? Effect.void : Effect.fail(new NoTokenizerError({ path: gguf.path }))

export const hasTokenizer = (gguf: GgufFile): boolean => {
  const kind = ggufString(gguf, "tokenizer.ggml.model")
  return kind !== undefined && kind !== "none" && kind !== "no_vocab"
}
