/**
 * Each request's work, by its type. It says what came of it through `send`, and throws what it failed of. What is about a
 * text is only begun: slots go on with it.
 */
import type { Engine } from "../Engine.ts"
import type { EngineEvent, EngineRequest, Numbered } from "../messages.ts"
import { load, measure, unload } from "./load.ts"
import { computeSpeeds, memory, open, speeds, traffic } from "./open.ts"
import { slot, slots } from "./slots.ts"
import { embed, evaluate, generate } from "./texts.ts"
import { detokenize, tokenize } from "./tokenize.ts"

export type Send = (event: EngineEvent, data?: Uint8Array) => void

type Work<T> = (engine: Engine, request: Numbered<EngineRequest & { type: T }>, send: Send) => void

const works: { readonly [T in EngineRequest["type"]]: Work<T> } = {
  open,
  memory,
  traffic,
  speeds,
  computeSpeeds,
  measure,
  load,
  unload,
  tokenize,
  detokenize,
  generate,
  evaluate,
  embed,
  slots,
  slot,
}

/** @throws {ClusterError} and whatever a mistake of ours throws */
export const perform = (engine: Engine, request: Numbered<EngineRequest>, send: Send): void =>
  (works[request.type] as Work<string>)(engine, request as never, send)

/** Requests that take the model, or the links, from whatever is at work: they wait for its end. */
export const needsIdle = (request: EngineRequest): boolean =>
  request.type === "speeds" ? request.waits : request.type === "load" || request.type === "unload"
