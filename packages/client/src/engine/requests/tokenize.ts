import { LlamaModel, ModelLoadError, TokenizeError } from "@ggml-rpc/native/bindings/llama"
import { ModelError } from "../../errors.ts"
import type { Engine } from "../Engine.ts"
import type { EngineRequest } from "../messages.ts"
import type { Send } from "./index.ts"

export const tokenize = (
  engine: Engine,
  request: EngineRequest & { type: "tokenize" },
  send: Send,
): void => {
  if (request.path === undefined) {
    const { model, path } = engine.required()
    send({ type: "tokens", tokens: tokensOf(model, path, request) })
    return
  }
  const { path } = request
  const model = openVocabulary(path)
  try {
    send({ type: "tokens", tokens: tokensOf(model, path, request) })
  } finally {
    model.release()
  }
}

export const detokenize = (
  engine: Engine,
  { tokens }: EngineRequest & { type: "detokenize" },
  send: Send,
): void => {
  const detokenizer = engine.required().model.detokenizer(true)
  const text = tokens.map((token) => detokenizer.push(token)).join("")
  send({ type: "text", text: text + detokenizer.finish() })
}

const openVocabulary = (path: string): LlamaModel => {
  try {
    return LlamaModel.open(path, { vocabOnly: true })
  } catch (error) {
    if (!(error instanceof ModelLoadError)) throw error
    throw new ModelError({ path, during: "tokenize", detail: error.message })
  }
}

const tokensOf = (
  model: LlamaModel,
  path: string,
  { text, addSpecial, parseSpecial }: EngineRequest & { type: "tokenize" },
): ReadonlyArray<number> => {
  try {
    return [...model.encodeText(text, { addSpecial, parseSpecial })]
  } catch (error) {
    if (!(error instanceof TokenizeError)) throw error
    throw new ModelError({ path, during: "tokenize", detail: error.message })
  }
}
