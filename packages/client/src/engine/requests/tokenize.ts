import { TokenizeError } from "@ggml-rpc/native/bindings/llama"
import { ModelError } from "../../errors.ts"
import type { Engine } from "../Engine.ts"
import type { EngineRequest } from "../messages.ts"
import type { Send } from "./index.ts"

export const tokenize = (
  engine: Engine,
  request: EngineRequest & { type: "tokenize" },
  send: Send,
): void => {
  const { model, path } = engine.required()
  try {
    const { addSpecial, parseSpecial } = request
    const tokens = model.encodeText(request.text, { addSpecial, parseSpecial })
    send({ type: "tokens", tokens: [...tokens] })
  } catch (error) {
    if (!(error instanceof TokenizeError)) throw error
    throw new ModelError({ path, during: "tokenize", detail: error.message })
  }
}
