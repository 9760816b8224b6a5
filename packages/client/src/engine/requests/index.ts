/** Each request's work, by its type. It says what came of it through `send`, and throws what it failed of. */
import type { Engine } from "../Engine.ts"
import type { EngineEvent, EngineRequest } from "../messages.ts"
import { evaluate } from "./evaluate.ts"
import { generate } from "./generate.ts"
import { load, measure, unload } from "./load.ts"
import { memory, open } from "./open.ts"
import { tokenize } from "./tokenize.ts"

export type Send = (event: EngineEvent, data?: Uint8Array) => void

type Work<T> = (engine: Engine, request: EngineRequest & { type: T }, send: Send) => void

const works: { readonly [T in EngineRequest["type"]]: Work<T> } = {
  open,
  memory,
  measure,
  load,
  unload,
  tokenize,
  generate,
  evaluate,
}

/** @throws {ClusterError} and whatever a mistake of ours throws */
export const perform = (engine: Engine, request: EngineRequest, send: Send): void =>
  (works[request.type] as Work<string>)(engine, request as never, send)
