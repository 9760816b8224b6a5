import { decodeStatusText } from "@ggml-rpc/native/bindings/llama"
import { ModelError } from "../../errors.ts"
import { type Engine, roomOf } from "../Engine.ts"
import type { EngineRequest } from "../messages.ts"
import type { Send } from "./index.ts"

/** Logits, or embeddings, of every token. */
export const evaluate = (
  engine: Engine,
  request: EngineRequest & { type: "evaluate" },
  send: Send,
): void => {
  const { model, context, options } = engine.required()
  const { info } = model
  const tokens = Int32Array.from(request.tokens)
  checkLength(engine, tokens.length)
  const isEmbedding = options.embeddings || !info.hasDecoder
  const columnCount = isEmbedding ? info.outputEmbeddingSize : info.vocabSize
  const values = new Float32Array(tokens.length * columnCount)
  const take = (first: number, count: number): void => {
    context.synchronize()
    engine.failIfLost()
    for (let row = 0; row < count; row++) {
      const output = isEmbedding ? context.embeddings(row) : context.logits(row)
      values.set(output, (first + row) * columnCount)
    }
  }
  context.clearMemory()
  if (info.hasEncoder) {
    check(engine, context.encode(tokens, { allOutputs: true }), "encode")
    if (!info.hasDecoder) take(0, tokens.length)
  }
  for (let at = 0; info.hasDecoder && at < tokens.length; at += context.batchSize) {
    if (engine.isCancelled) throw stopped(engine)
    const batch = tokens.subarray(at, at + context.batchSize)
    check(engine, context.decode(batch, { firstPosition: at, allOutputs: true }), "decode")
    take(at, batch.length)
  }
  send(
    {
      type: "evaluated",
      kind: isEmbedding ? "embeddings" : "logits",
      rowCount: tokens.length,
      columnCount,
      bytes: values.byteLength,
    },
    new Uint8Array(values.buffer),
  )
}

/** @throws {ModelError} when so many tokens cannot be evaluated */
const checkLength = (engine: Engine, tokenCount: number): void => {
  const { context, options, path } = engine.required()
  const fail = (detail: string): never => {
    throw new ModelError({ path, during: "decode", detail })
  }
  if (tokenCount === 0) fail("there are no tokens.")
  const room = roomOf(engine.required())
  if (tokenCount > room) {
    fail(
      `${tokenCount} tokens do not fit its context of ${room}; raise --ctx-size or give fewer tokens.`,
    )
  }
  if (options.wholeBatch && tokenCount > context.ubatchSize) {
    fail(
      `it looks at all tokens at once, and ${tokenCount} do not fit a batch of ${context.ubatchSize}; raise --ubatch-size.`,
    )
  }
}

const stopped = (engine: Engine): ModelError =>
  new ModelError({ path: engine.required().path, during: "decode", detail: "it was stopped." })

const check = (engine: Engine, status: number, during: "decode" | "encode"): void => {
  engine.failIfLost()
  if (status !== 0) {
    if (engine.isCancelled) throw stopped(engine)
    const { path } = engine.required()
    throw new ModelError({ path, during, detail: `${decodeStatusText(status)}.` })
  }
}
