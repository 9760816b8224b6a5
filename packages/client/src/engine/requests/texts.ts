/** Requests about a text: each becomes a task, which ends with its final event when slots are done with it. */
import { ModelError } from "../../errors.ts"
import type { Engine } from "../Engine.ts"
import type { EngineRequest, Numbered } from "../messages.ts"
import { GenerateTask } from "../slots/GenerateTask.ts"
import { EmbedTask, EvaluateTask, type OutputTaskOptions } from "../slots/outputTasks.ts"
import type { Send } from "./index.ts"

type Request<T> = Numbered<EngineRequest & { readonly type: T }>

export const generate = (engine: Engine, request: Request<"generate">, send: Send): void => {
  const loaded = engine.required()
  const { settings, tokens, id } = request
  checkTokens(engine, tokens)
  if (settings.slot !== undefined) checkSlot(engine, settings.slot)
  const { slotsHost: host, writer } = engine
  loaded.slots.submit(new GenerateTask({ id, request, loaded, host, writer, send }))
}

/** Logits, or embeddings, of every token. */
export const evaluate = (engine: Engine, request: Request<"evaluate">, send: Send): void => {
  const options = optionsOf(engine, request, send)
  engine.required().slots.submit(new EvaluateTask(options))
}

/** One embedding of the whole text. */
export const embed = (engine: Engine, request: Request<"embed">, send: Send): void => {
  const options = optionsOf(engine, request, send)
  engine.required().slots.submit(new EmbedTask(options))
}

const optionsOf = (
  engine: Engine,
  { id, tokens }: Numbered<{ readonly tokens: ReadonlyArray<number> }>,
  send: Send,
): OutputTaskOptions => {
  checkTokens(engine, tokens)
  return { id, tokens, loaded: engine.required(), host: engine.slotsHost, send }
}

/** In a batch with others they would be everybody's failure. @throws {ModelError} */
const checkTokens = (engine: Engine, tokens: ReadonlyArray<number>): void => {
  const { model, path } = engine.required()
  const { vocabSize } = model.info
  for (const token of tokens) {
    if (Number.isInteger(token) && token >= 0 && token < vocabSize) continue
    const detail = `it has ${vocabSize} tokens, and none ${token}.`
    throw new ModelError({ path, during: "request", detail })
  }
}

/** @throws {ModelError} when there is no such slot */
export const checkSlot = (engine: Engine, slot: number): void => {
  const { slots, path } = engine.required()
  if (Number.isInteger(slot) && slot >= 0 && slot < slots.count) return
  const detail = `there is no slot ${slot}; there are ${slots.count}, counted from 0.`
  throw new ModelError({ path, during: "slot", detail })
}
