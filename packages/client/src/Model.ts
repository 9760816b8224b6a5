/** A model on the devices of a cluster: how it gets there, and what it does. */
import type { ModelInfo, SamplerOptions } from "@ggml-rpc/native/bindings/llama"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { EngineHost } from "./EngineHost.ts"
import type {
  EngineEvent,
  GenerateSettings,
  GenerateStats,
  LoadStats,
  PlacedModel,
  Placement,
  SlotAction,
  SlotState,
} from "./engine/messages.ts"
import { type ClusterError, ModelError } from "./errors.ts"
import { type GeneratedToken, generateEach, tokenStream } from "./generateEach.ts"
import { type ModelPlan, measurementOf } from "./ModelPlan.ts"
import type { Measurement } from "./planner/index.ts"

export interface LoadProgress {
  /** Weights that have reached their servers. */
  readonly doneBytes: number
  /** Of those, weights that a server had in its cache. */
  readonly cachedBytes: number
  readonly totalBytes: number
}

export interface GenerateOptions extends SamplerOptions, GenerateSettings {
  /** Default -1: until the model ends the text or the context is full. */
  readonly maxTokens?: number
}

/** What a model put out for given tokens. */
export interface Evaluation {
  /** Embeddings for models that compute no logits. */
  readonly kind: "logits" | "embeddings"
  readonly rowCount: number
  readonly columnCount: number
  /** rowCount × columnCount, row after row. */
  readonly values: Float32Array
}

export interface TokenizeOptions {
  /** Marks that the model puts around a text: true. */
  readonly addSpecial?: boolean | undefined
  /** Marks that stand in the text, such as `</s>`, are what they do: true. */
  readonly parseSpecial?: boolean | undefined
}

/** Slots of a model, and the requests that wait for one. */
export interface SlotsState {
  readonly slots: ReadonlyArray<SlotState>
  readonly queuedCount: number
}

/**
 * A model on the devices of a cluster. Any number of texts can be asked of it at once: so many as it was loaded with slots for
 * are computed together, the others wait in their order.
 */
export interface ClusterModel {
  readonly info: ModelInfo
  readonly plan: ModelPlan
  /** Tokens that the context holds. */
  readonly contextSize: number
  readonly stats: LoadStats
  /** What it really took, per device of the plan, and on this host. */
  readonly breakdown: Measurement
  /** The same of the smaller model that guesses for it, by the devices of its own plan. */
  readonly draftBreakdown?: Measurement
  readonly tokenize: (
    text: string,
    options?: TokenizeOptions,
  ) => Effect.Effect<ReadonlyArray<number>, ClusterError>
  /** Text or token ids in, tokens out as they are computed. Ending the stream early stops the model. */
  readonly generate: (
    prompt: string | ReadonlyArray<number>,
    options?: GenerateOptions,
    onStats?: (stats: GenerateStats) => void,
  ) => Stream.Stream<GeneratedToken, ClusterError>
  /**
   * The same by a plain call a token, which takes a third of the stream's processor time. What `onToken` throws is a
   * defect and stops the model, as an interruption does.
   */
  readonly generateEach: (
    prompt: string | ReadonlyArray<number>,
    onToken: (token: GeneratedToken) => void,
    options?: GenerateOptions,
  ) => Effect.Effect<GenerateStats, ClusterError>
  /** The text of tokens, special ones by their names. */
  readonly detokenize: (tokens: ReadonlyArray<number>) => Effect.Effect<string, ClusterError>
  /** Logits (or embeddings) of every one of these tokens. */
  readonly evaluate: (tokens: ReadonlyArray<number>) => Effect.Effect<Evaluation, ClusterError>
  /** One embedding of a text, or a classifier's scores, by a model that was loaded for embeddings. */
  readonly embed: (tokens: ReadonlyArray<number>) => Effect.Effect<Float32Array, ClusterError>
  readonly slots: Effect.Effect<SlotsState, ClusterError>
  /** Writes what a slot's cache holds to a file, once no text is at work there; how many tokens that are. */
  readonly saveSlot: (slot: number, path: string) => Effect.Effect<number, ClusterError>
  /** Reads it again, for the same model on whatever devices. */
  readonly restoreSlot: (slot: number, path: string) => Effect.Effect<number, ClusterError>
  /** Empties a slot; how many tokens it had. */
  readonly eraseSlot: (slot: number) => Effect.Effect<number, ClusterError>
}

/** Who has a model on the cluster, or is loading one: one load at a time. */
export interface Place {
  holder: { readonly path: string } | undefined
}

/**
 * Asked of the engine by plain calls: a small model is loaded in the time that the host takes to run a chain of
 * effects for the first time.
 */
export const loadModel = (
  engine: EngineHost,
  place: Place,
  plan: ModelPlan,
  onProgress: (progress: LoadProgress) => void,
): Effect.Effect<ClusterModel, ClusterError, Scope.Scope> =>
  Effect.scopeWith((scope) => {
    const { path } = plan
    const holder = { path }
    const leave = (): void => {
      if (place.holder === holder) place.holder = undefined
    }
    const release = Effect.suspend(() => {
      if (place.holder !== holder) return Effect.void
      // What runs now is this load, or something on this model; the engine may also be gone already,
      // and then so is the model.
      return engine.cancelModel.pipe(
        Effect.zipRight(engine.settle(engine.request({ type: "unload" }))),
        Effect.ensuring(Effect.sync(leave)),
      )
    })
    const totalBytes = remoteBytes(plan) + (plan.draft ? remoteBytes(plan.draft) : 0)
    const load = Effect.async<ClusterModel, ClusterError>((resume) => {
      // What the caller's function throws is a defect; the finalizer stops the load.
      const report = (doneBytes: number, cachedBytes: number): void => {
        try {
          onProgress({ doneBytes, cachedBytes, totalBytes })
        } catch (error) {
          resume(Effect.die(error))
        }
      }
      if (place.holder !== undefined) {
        const detail = `the cluster holds ${place.holder.path} already; close its scope first, or open another cluster.`
        resume(Effect.fail(new ModelError({ path, during: "load", detail })))
        return
      }
      place.holder = holder
      const cancel = engine.begin(
        {
          type: "load",
          ...placedModel(plan),
          ...(plan.draft && { draft: placedModel(plan.draft) }),
        },
        (event) => {
          if (event.type === "progress") report(event.doneBytes, event.cachedBytes)
        },
        (end) => {
          if (Either.isLeft(end)) {
            // The engine keeps nothing of a load that failed.
            leave()
            resume(Effect.fail(end.left))
            return
          }
          const { event: loaded } = end.right
          const { remoteWeightBytes, cachedWeightBytes } = loaded.stats
          if (remoteWeightBytes > 0) report(remoteWeightBytes, cachedWeightBytes)
          resume(Effect.succeed(modelOf(engine, plan, loaded)))
        },
      )
      return Effect.suspend(() => {
        if (!cancel()) return release
        // Whatever becomes of it, behind the others: no model stays.
        engine.begin({ type: "unload" }, ignore, ignore)
        leave()
        return Effect.void
      })
    })
    // The finalizer comes first: it does nothing before the place is taken, and nothing can come between.
    return Effect.zipRight(Scope.addFinalizer(scope, release), load)
  })

const ignore = (): void => {}

const placementOf = ({ devices, deviceIndexes, splitMode }: ModelPlan): Placement => ({
  devices: deviceIndexes,
  unitCounts: devices.map(({ unitCount }) => unitCount),
  ...(splitMode === "tensor" && { shares: devices.map(({ share = 0 }) => share) }),
})

const placedModel = (plan: ModelPlan): PlacedModel => ({
  path: plan.path,
  placement: placementOf(plan),
  context: plan.context,
  model: plan.model,
})

/** Weights that go to servers. */
const remoteBytes = ({ devices, places }: ModelPlan): number =>
  devices.reduce(
    (sum, device, index) => sum + (places[index] === "local" ? 0 : device.weightBytes),
    0,
  )

/** By the vocabulary of the file at `path`, or else of the loaded model. */
export const tokenize = (
  engine: EngineHost,
  text: string,
  {
    addSpecial = true,
    parseSpecial = true,
    path,
  }: TokenizeOptions & { readonly path?: string | undefined } = {},
): Effect.Effect<ReadonlyArray<number>, ClusterError> =>
  Effect.map(
    engine.request({
      ...{ type: "tokenize", text, addSpecial, parseSpecial },
      ...(path === undefined ? {} : { path }),
    }),
    ({ event }) => event.tokens,
  )

const modelOf = (
  engine: EngineHost,
  plan: ModelPlan,
  loaded: EngineEvent & { type: "loaded" },
): ClusterModel => {
  const ownTokens: ClusterModel["tokenize"] = (text, options) => tokenize(engine, text, options)
  const generate: ClusterModel["generateEach"] = (prompt, onToken, options = {}) => {
    const { maxTokens = -1, ...others } = options
    const { settings, sampler } = partOptions(others)
    return Effect.flatMap(
      typeof prompt === "string" ? ownTokens(prompt) : Effect.succeed(prompt),
      (tokens) =>
        generateEach(engine, { type: "generate", tokens, maxTokens, sampler, settings }, onToken),
    )
  }
  const ask = (action: SlotAction, slot: number, path = "") =>
    Effect.map(
      engine.request({ type: "slot", action, slot, path }),
      ({ event }) => event.tokenCount,
    )
  return {
    info: loaded.info,
    plan,
    contextSize: loaded.contextSize,
    stats: loaded.stats,
    breakdown: measurementOf(loaded.rows, plan.deviceIndexes),
    ...(plan.draft && {
      draftBreakdown: measurementOf(loaded.draftRows ?? [], plan.draft.deviceIndexes),
    }),
    tokenize: ownTokens,
    generate: (prompt, options, onStats = () => {}) =>
      tokenStream((onToken) => generate(prompt, onToken, options), onStats),
    generateEach: generate,
    detokenize: (tokens) =>
      Effect.map(engine.request({ type: "detokenize", tokens }), ({ event }) => event.text),
    evaluate: (tokens) =>
      Effect.map(engine.request({ type: "evaluate", tokens }), ({ event, data }) => ({
        kind: event.kind,
        rowCount: event.rowCount,
        columnCount: event.columnCount,
        values: floatsOf(data),
      })),
    embed: (tokens) =>
      Effect.map(engine.request({ type: "embed", tokens }), ({ data }) => floatsOf(data)),
    slots: Effect.map(engine.request({ type: "slots" }), ({ event }) => ({
      slots: event.slots,
      queuedCount: event.queuedCount,
    })),
    saveSlot: (slot, path) => ask("save", slot, path),
    restoreSlot: (slot, path) => ask("restore", slot, path),
    eraseSlot: (slot) => ask("erase", slot),
  }
}

/** A copy: the bytes may lie at an odd address of a larger block. */
const floatsOf = (data: Uint8Array): Float32Array => new Float32Array(new Uint8Array(data).buffer)

/** What samplers do not know apart from what they do. */
const partOptions = ({
  stop,
  topLogprobs,
  cachePrompt,
  slot,
  contextShift,
  keepTokens,
  draftCount,
  controlText,
  ...sampler
}: SamplerOptions & GenerateSettings): {
  readonly settings: GenerateSettings
  readonly sampler: SamplerOptions
} => ({
  // JSON leaves out what is undefined.
  settings: {
    ...{ stop, topLogprobs, cachePrompt, slot, contextShift, keepTokens, draftCount, controlText },
  } as GenerateSettings,
  sampler: {
    ...sampler,
    ...(sampler.logitBias === undefined
      ? {}
      : { logitBias: sampler.logitBias.map(([token, bias]) => [token, finite(bias)] as const) }),
  },
})

/** JSON has no infinity; no logit is a match for this either. */
const finite = (bias: number): number => Math.min(Math.max(bias, -MAX_BIAS), MAX_BIAS)
const MAX_BIAS = 1e30
