import { ModelError } from "../../errors.ts"
import { describeExactServers } from "../../lacking.ts"
import type { Engine } from "../Engine.ts"
import type { Loaded } from "../Loaded.ts"
import type { EngineRequest, PlacedModel } from "../messages.ts"
import type { Send } from "./index.ts"

const PROGRESS_INTERVAL_MS = 50

/** What a placement would take; nothing of it stays. */
export const measure = (
  engine: Engine,
  request: EngineRequest & { type: "measure" },
  send: Send,
): void => {
  const model = { ...request.model, mmap: false }
  const measured = engine.measured(
    () => acquireToMeasure(engine, { ...request, model }),
    (loaded, unsupported) => ({
      rows: engine.rows(loaded),
      contextSize: loaded.context.contextSize,
      unsupported,
    }),
  )
  engine.failIfLost()
  send({ type: "measured", ...measured, exactServers: engine.exactServers(request) })
}

/** What libllama does not take of an outline it may take of the model, or says of that what is wrong with it. */
const acquireToMeasure = (
  engine: Engine,
  { outline, ...placed }: PlacedModel & { readonly outline?: string },
): Loaded => {
  if (outline !== undefined) {
    try {
      return engine.acquire(placed, { noAlloc: true, file: outline })
    } catch (error) {
      if (!(error instanceof ModelError)) throw error
    }
  }
  return engine.acquire(placed, { noAlloc: true })
}

/** Puts a model where its placement says, in place of the one before. @throws {ClusterError} nothing is left of it then */
export const load = (
  engine: Engine,
  request: EngineRequest & { type: "load" },
  send: Send,
): void => {
  engine.unload()
  try {
    loadFresh(engine, request, send)
  } catch (error) {
    engine.unload()
    throw error
  } finally {
    const weights = engine.remote?.weights
    if (weights !== undefined) weights.onWeight = undefined
    // What is left to do after a load that succeeded is done there.
    weights?.end(false)
  }
}

const loadFresh = (engine: Engine, request: EngineRequest & { type: "load" }, send: Send): void => {
  const started = performance.now()
  const { remote } = engine
  const weights = remote?.weights
  const doneBefore = weights?.doneBytes ?? 0
  const cachedBefore = weights?.cachedBytes ?? 0
  if (weights !== undefined) {
    // A small model is loaded before there is anything to see.
    let reported = started
    weights.onWeight = () => {
      const now = performance.now()
      if (now - reported < PROGRESS_INTERVAL_MS) return
      reported = now
      send({
        type: "progress",
        doneBytes: weights.doneBytes - doneBefore,
        cachedBytes: weights.cachedBytes - cachedBefore,
      })
    }
  }
  // The smaller one first: it is loaded in no time, and may be the one that does not.
  const begin = ({ path, placement }: PlacedModel): void =>
    weights?.begin(path, placement.shares !== undefined)
  if (request.draft !== undefined) begin(request.draft)
  const draft = request.draft && engine.acquire(request.draft, { noAlloc: false })
  begin(request)
  const loaded = acquireBeside(engine, request, draft)
  engine.keep(loaded, draft)
  remote?.settle()
  for (const reason of remote?.prepareSums() ?? []) engine.note(sumsNote(reason))
  const placed = [request, ...(request.draft ? [request.draft] : [])]
  const exact = placed.flatMap((each) => engine.exactServers(each))
  if (exact.length > 0) engine.note(describeExactServers(exact))
  engine.failIfLost()
  send({
    type: "loaded",
    info: loaded.model.info,
    contextSize: loaded.context.contextSize,
    rows: engine.rows(loaded),
    ...(draft === undefined ? {} : { draftRows: engine.rows(draft) }),
    stats: {
      loadMs: performance.now() - started,
      remoteWeightBytes: (weights?.doneBytes ?? 0) - doneBefore,
      cachedWeightBytes: (weights?.cachedBytes ?? 0) - cachedBefore,
    },
  })
  weights?.end(request.model.hashesBeside ?? true)
}

const sumsNote = (reason: string): string =>
  `Partial sums are added up by this machine, not between the servers, which would be faster: ${reason}.`

const acquireBeside = (engine: Engine, placed: PlacedModel, draft: Loaded | undefined): Loaded => {
  try {
    return engine.acquire(placed, { noAlloc: false })
  } catch (error) {
    draft?.model.release()
    throw error
  }
}

export const unload = (engine: Engine, _: EngineRequest & { type: "unload" }, send: Send): void => {
  engine.unload()
  send({ type: "unloaded" })
}
