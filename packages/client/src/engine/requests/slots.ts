import { ModelError } from "../../errors.ts"
import type { Engine } from "../Engine.ts"
import { failedBy } from "../failure.ts"
import type { EngineRequest, SlotAction } from "../messages.ts"
import type { Slot } from "../slots/Slot.ts"
import type { Send } from "./index.ts"
import { checkSlot } from "./texts.ts"

export const slots = (engine: Engine, _: EngineRequest & { type: "slots" }, send: Send): void => {
  const active = engine.required().slots
  send({ type: "slots", slots: active.states(), queuedCount: active.queuedCount })
}

/** Saves, restores or forgets what a slot's cache holds, once no text is at work there. */
export const slot = (
  engine: Engine,
  request: EngineRequest & { type: "slot" },
  send: Send,
): void => {
  checkSlot(engine, request.slot)
  engine.required().slots.whenIdle(request.slot, (idle) => {
    try {
      const tokenCount = actions[request.action](engine, idle, request.path)
      send({ type: "slot", tokenCount })
    } catch (error) {
      send(failedBy(error))
    }
  })
}

type Action = (engine: Engine, slot: Slot, path: string) => number

const actions: { readonly [A in SlotAction]: Action } = {
  save: (engine, { id, context, sequence, tokens }, path) => {
    const isSaved = context.saveSequence(path, sequence, Int32Array.from(tokens))
    engine.failIfLost()
    if (!isSaved)
      throw slotError(
        engine,
        `slot ${id} cannot be saved to ${path}; look at the folder and its space.`,
      )
    return tokens.length
  },
  restore: (engine, slot, path) => {
    slot.clear()
    const tokens = slot.context.restoreSequence(path, slot.sequence)
    engine.failIfLost()
    if (tokens === undefined) {
      slot.clear()
      throw slotError(
        engine,
        `${path} cannot be restored: it is no file that a slot of this model, with these types of cache and room for its tokens, was saved to.`,
      )
    }
    slot.tokens.push(...tokens)
    return tokens.length
  },
  erase: (_, slot) => {
    const { length } = slot.tokens
    slot.clear()
    return length
  },
}

const slotError = (engine: Engine, detail: string): ModelError =>
  new ModelError({ path: engine.required().path, during: "slot", detail })
