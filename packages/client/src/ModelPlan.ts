/** Where a model goes: what is asked for, what fits, and what the engine measured. */
import { type GgufError, type GgufFile, ggufString, layerBytes } from "@ggml-rpc/gguf"
import type { AdapterOptions, KvTypeName, RopeOptions } from "@ggml-rpc/native/bindings/llama"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { contextOptions, MIN_CONTEXT_SIZE, type poolingTypes } from "./contextOptions.ts"
import {
  checkDraft,
  checkDraftContext,
  draftPlanOptions,
  type Memory,
  memoryBeside,
  splitAs,
} from "./draftPlan.ts"
import type { EngineHost } from "./EngineHost.ts"
import type {
  DraftOptions,
  EngineContextOptions,
  EngineDevice,
  EngineModelOptions,
  MeasuredRow,
  NgramOptions,
  UnsupportedOps,
} from "./engine/messages.ts"
import { type ClusterError, ModelError, PlanError } from "./errors.ts"
import {
  type CutShares,
  chooseSplit,
  cutSharesOf,
  type SplitChoice,
  workOf,
} from "./fasterSplit.ts"
import { orFewerGroups } from "./fewerGroups.ts"
import type { LackingServer } from "./lacking.ts"
import { loadAdapterHeader } from "./loadAdapterHeader.ts"
import { loadModelHeader } from "./loadModelHeader.ts"
import { modelOutline } from "./modelOutline.ts"
import {
  type Candidate,
  type DeviceUse,
  type Measurement,
  type Plan,
  type PlannerInput,
  planSteps,
  poolsOf,
} from "./planner/index.ts"
import { checkGroups, pipelinedContext } from "./stages.ts"
import { cannotCutOver, describeUnsupported, type PlanUnsupported } from "./unsupported.ts"

/** How a text's embeddings become one, by llama-server's names; `rank` gives a classifier's scores. */
export type Pooling = keyof typeof poolingTypes

/** Defaults are llama-cli's, by its names. */
export interface PlanOptions {
  /** Tokens; undefined: the model's training length, less if that does not fit. */
  readonly contextSize?: number | undefined
  readonly batchSize?: number | undefined
  readonly ubatchSize?: number | undefined
  readonly threads?: number | undefined
  readonly flashAttention?: "on" | "off" | "auto" | undefined
  readonly typeK?: KvTypeName | undefined
  readonly typeV?: KvTypeName | undefined
  /** Texts that can be at work at once, which share the context's tokens; 1. */
  readonly slots?: number | undefined
  /**
   * Contexts that the slots are spread over, each with a cache of its own of as many tokens, so that several servers compute at the
   * same time; at most as many as slots. Undefined: one for each stage that a batch goes through, as far as memory allows.
   */
  readonly groups?: number | undefined
  /** Guesses of tokens to come, so that several are computed at once; none. What is said stays the same. */
  readonly speculation?: Speculation | undefined
  /**
   * Texts are generated and hardly ever evaluated: devices keep room for few logits at a time, and servers with the output layer, or parts of
   * it, send those that samplers look at alone. What is said stays the same; false.
   */
  readonly generatesOnly?: boolean | undefined
  /** Loads the model to embed texts, not to generate any; what the architecture is for. */
  readonly embeddings?: boolean | undefined
  /** How the embeddings of a text's tokens become one; the model's way. Without `embeddings`: none. */
  readonly pooling?: Pooling | undefined
  /** Layers on devices, the output layer included; undefined: all that fit. */
  readonly gpuLayers?: number | undefined
  /**
   * `layer`, the default: each device gets whole layers, one computes after the other. `tensor`: each gets a part of every tensor,
   * and all compute at once; not for all architectures. `auto`: what is faster by an estimate, for which links and devices are
   * measured.
   */
  readonly splitMode?: "layer" | "tensor" | "auto" | undefined
  /** Where tensors are cut, `ggml` adds up partial sums as llama.cpp does: slow, for comparisons. */
  readonly sums?: "ggml" | undefined
  /**
   * How activations cross between hosts: `bf16` halves their bytes and rounds them, with servers that know it; `f32`, the default,
   * as they are computed. Weights, caches, logits and embeddings stay what they are.
   */
  readonly wire?: "f32" | "bf16" | undefined
  /**
   * Proportions, one a device in the cluster's order; undefined: of layers by free memory, of tensors by how fast servers multiply,
   * which is measured.
   */
  readonly tensorSplit?: ReadonlyArray<number> | undefined
  /** Map the file; true. */
  readonly mmap?: boolean | undefined
  /** Keep this host's weights from being swapped out, as far as the system lets it; false. */
  readonly mlock?: boolean | undefined
  /**
   * After the load, hash the weights that servers may keep while nobody waits, for the next load; true. It takes a core for a while,
   * which shows in what is measured then.
   */
  readonly hashesBeside?: boolean | undefined
  /** Devices to use and their order, by name or server; undefined: all of the cluster's, in its order. */
  readonly devices?: ReadonlyArray<string> | undefined
  /** Tensors that go elsewhere than their layer; the first pattern that a name has counts. */
  readonly overrides?: ReadonlyArray<TensorPlace> | undefined
  /** Keep the KV cache where its layers are, else with this host; true. */
  readonly kvOffload?: boolean | undefined
  /** LoRA adapters to compute with. */
  readonly adapters?: ReadonlyArray<AdapterOptions> | undefined
  /** Rotary position embedding; the model's. */
  readonly rope?: RopeOptions | undefined
  /** Bytes left free on each device; 64 MiB. */
  readonly headroomBytes?: number | undefined
}

/** How tokens to come are guessed. */
export interface Speculation {
  readonly ngram?: NgramOptions
  /** By a smaller model, where there is no guess from the text. */
  readonly draft?: DraftModelOptions
}

/** A smaller model with the same vocabulary. Defaults are llama-server's. */
export interface DraftModelOptions extends Partial<DraftOptions> {
  readonly path: string
  /** As in `PlanOptions`; all devices of this host. */
  readonly devices?: ReadonlyArray<string> | undefined
  readonly gpuLayers?: number | undefined
  readonly typeK?: KvTypeName | undefined
  readonly typeV?: KvTypeName | undefined
  /** As for the model. */
  readonly threads?: number | undefined
}

export interface TensorPlace {
  /** A regular expression for names of tensors, such as `ffn_.*_exps`. */
  readonly pattern: string
  /** By name or server; `CPU`: this host. */
  readonly device: string
}

/** A plan, and what it was made for. */
export interface ModelPlan extends Plan {
  readonly path: string
  readonly architecture: string
  /** `general.name`, when the file has one. */
  readonly name?: string
  readonly modelBytes: number
  readonly context: EngineContextOptions
  readonly model: EngineModelOptions
  /** Which of the cluster's devices each one is. Same order as `devices`. */
  readonly deviceIndexes: ReadonlyArray<number>
  /** Where each device is: its server, or `local`. Same order as `devices`. */
  readonly places: ReadonlyArray<string>
  /** How it was chosen between layers and tensors, where that was left to the plan. */
  readonly choice?: SplitChoice
  /** Where tensors are cut: how the shares came about, where nobody gave them. */
  readonly cutShares?: CutShares
  /** What devices do not support of the model, so that its graph falls into more pieces; empty as a rule. */
  readonly unsupported: ReadonlyArray<PlanUnsupported>
  /** Servers to and from which activations stay F32 although `wire` asks for bf16, which they do not know. */
  readonly exactServers: ReadonlyArray<LackingServer>
  /** Of the smaller model that guesses for it. */
  readonly draft?: ModelPlan
}

const HEADROOM_BYTES = 64 * 1024 * 1024

const nothing: DeviceUse = { weightBytes: 0, contextBytes: 0, computeBytes: 0 }

/** ggml's names of host buffers whose tensors lie as in the file. */
const isFileLayout = (bufferTypeName: string): boolean => /^CPU(_Mapped)?$/.test(bufferTypeName)

/** Sums rows of buffer types into what each device, by its index, and this host take. */
export const measurementOf = (
  rows: ReadonlyArray<MeasuredRow>,
  deviceIndexes: ReadonlyArray<number>,
): Measurement => {
  const add = (use: DeviceUse, row: MeasuredRow): DeviceUse => ({
    weightBytes: use.weightBytes + row.modelBytes,
    contextBytes: use.contextBytes + row.contextBytes,
    computeBytes: use.computeBytes + row.computeBytes,
  })
  const of = (device: number): DeviceUse =>
    rows.filter((row) => row.device === device).reduce(add, nothing)
  return {
    devices: deviceIndexes.map(of),
    host: rows.filter((row) => row.device < 0).reduce(add, nothing),
    hostFileLayoutBytes: rows
      .filter((row) => row.device < 0 && isFileLayout(row.bufferTypeName))
      .reduce((sum, row) => sum + row.modelBytes, 0),
  }
}

/** Indexes of the devices that a name, or a server's address, means. @throws {PlanError} */
type DeviceFinder = (name: string) => ReadonlyArray<number>

const deviceFinder =
  (devices: ReadonlyArray<EngineDevice>, places: ReadonlyArray<string>): DeviceFinder =>
  (name) => {
    const found = devices.flatMap((device, index) =>
      device.name === name || places[index] === name ? [index] : [],
    )
    if (found.length > 0) return found
    const known = devices.map((device, index) => `${device.name} (${places[index]})`)
    throw new PlanError({
      reason: "unknown-device",
      detail: `There is no device '${name}'; there are: ${known.join(", ") || "none besides this host's CPU"}.`,
    })
  }

/** Devices to split over, in order; one that is named twice counts once. */
const chosenDevices = (
  names: ReadonlyArray<string> | undefined,
  find: DeviceFinder,
  deviceCount: number,
): ReadonlyArray<number> =>
  names === undefined
    ? Array.from({ length: deviceCount }, (_, index) => index)
    : [...new Set(names.filter((name) => name !== "CPU").flatMap(find))]

const modelOptions = (options: PlanOptions, find: DeviceFinder): EngineModelOptions => ({
  mmap: options.mmap ?? true,
  ...(options.mlock && { mlock: true }),
  ...(options.hashesBeside === false && { hashesBeside: false }),
  ...(options.overrides && {
    overrides: options.overrides.map(({ pattern, device }) => ({
      pattern,
      device: device === "CPU" ? -1 : find(device)[0]!,
    })),
  }),
  ...(options.adapters && { adapters: options.adapters }),
  ...(options.sums && { sums: options.sums }),
  ...(options.wire === "bf16" && { wire: options.wire }),
})

/**
 * Whether tensors are cut: as told, and where there is more than one device.
 *
 * @throws {PlanError} where that cannot be
 */
const cutsTensorsOf = (
  options: PlanOptions,
  devices: ReadonlyArray<EngineDevice>,
  { overrides = [] }: EngineModelOptions,
): boolean => {
  const { splitMode, tensorSplit, gpuLayers } = options
  const used = tensorSplit === undefined ? devices : devices.filter((_, at) => tensorSplit[at]! > 0)
  // Without layers on devices there is nothing to cut.
  if (splitMode !== "tensor" || used.length < 2 || gpuLayers === 0) return false
  const problem = cuttingProblem(used, options, overrides.length > 0)
  if (problem === undefined) return true
  throw new PlanError({ reason: "split-mode", detail: problem })
}

/** ggml-backend.h `GGML_BACKEND_META_MAX_DEVICES` (v0.5.0). */
const MAX_CUT_DEVICES = 16

const cuttingProblem = (
  devices: ReadonlyArray<EngineDevice>,
  { adapters = [], flashAttention, kvOffload, typeK, typeV }: PlanOptions,
  hasOverrides: boolean,
): string | undefined => {
  const listed = (found: ReadonlyArray<EngineDevice>) => found.map(({ name }) => name).join(", ")
  const local = devices.filter(({ endpoint }) => endpoint === undefined)
  if (flashAttention === "off") {
    return "Tensors can be cut over devices (--split-mode tensor) with flash attention only: leave out '--flash-attn off', or split layers (--split-mode layer)."
  }
  // libllama makes F16 of it first, and of few heads ggml cannot tell any more how they are cut.
  if (typeK === "f32" || typeV === "f32") {
    return "Where tensors are cut over devices (--split-mode tensor), the KV cache is of F16, BF16 or a quantized type: leave out f32 for --cache-type-k and --cache-type-v, or split layers (--split-mode layer)."
  }
  if (local.length > 0 && local.length < devices.length) {
    return `Tensors are cut over devices of servers, or over this machine's, not over both, since these would wait for the network (--split-mode tensor): leave out ${listed(local)} with --device none or name the devices to use (--device), or split layers (--split-mode layer).`
  }
  if (devices.length > MAX_CUT_DEVICES) {
    return `Tensors are cut over ${MAX_CUT_DEVICES} devices at most, and there are ${devices.length}: name those to use with --device, or split layers (--split-mode layer).`
  }
  if (adapters.length > 0) {
    return "llama.cpp computes with adapters only where tensors are whole: leave out --lora and --lora-scaled, or split layers (--split-mode layer)."
  }
  if (hasOverrides) {
    return "Tensors that are cut over all devices (--split-mode tensor) cannot go elsewhere one by one: leave out --override-tensor, --cpu-moe and --n-cpu-moe, or split layers (--split-mode layer)."
  }
  if (kvOffload === false) {
    return "Where tensors are cut over devices (--split-mode tensor), each has its part of the KV cache: leave out --no-kv-offload, or split layers (--split-mode layer)."
  }
  return undefined
}

/** What its tensors take. */
const tensorBytes = ({ tensors }: GgufFile): number =>
  tensors.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)

type Planning = Effect.Effect<ModelPlan, ClusterError | GgufError>

/** Reads the model file and finds where its layers fit, measuring candidates on the devices. `places` is in the devices' order. */
export const planModel = (
  engine: EngineHost,
  places: ReadonlyArray<string>,
  path: string,
  options: PlanOptions,
): Planning =>
  Effect.gen(function* () {
    const gguf = yield* loadModelHeader(path)
    const { event: memory } = yield* engine.request({ type: "memory" })
    const draft = options.speculation?.draft
    if (draft === undefined) return yield* planFaster({ engine, places, memory }, gguf, options)
    const draftGguf = yield* loadModelHeader(draft.path)
    yield* orPlanError(() => checkDraft(draftGguf, gguf))
    const draftOptions = draftPlanOptions(draftGguf, draft, options, memory)
    const first = yield* planOn({ engine, places, memory }, draftGguf, draftOptions)
    yield* orPlanError(() => checkDraftContext(first))
    const left = memoryBeside(memory, first)
    const plan = yield* planFaster({ engine, places, memory: left }, gguf, options)
    // It needs no longer context than there is. Its layers stay where they were: the model got what they left.
    const { contextSize } = plan
    const second =
      first.contextSize <= contextSize
        ? first
        : yield* planOn({ engine, places, memory }, draftGguf, {
            ...draftOptions,
            ...splitAs(first),
            contextSize,
          })
    return { ...plan, draft: second }
  })

interface Ground {
  readonly engine: EngineHost
  readonly places: ReadonlyArray<string>
  readonly memory: Memory
}

/** As told; or what takes less time. */
const planFaster = (ground: Ground, gguf: GgufFile, options: PlanOptions): Planning =>
  Effect.gen(function* () {
    if (options.splitMode !== "auto") return yield* planOn(ground, gguf, options)
    const layer = yield* planOn(ground, gguf, { ...options, splitMode: "layer" })
    const asIs = (reason: string): ModelPlan => ({ ...layer, choice: { reason } })
    if (layer.places.includes("local")) return asIs("devices of this machine are among them")
    const tensor = yield* Effect.either(planOn(ground, gguf, { ...options, splitMode: "tensor" }))
    if (Either.isLeft(tensor)) {
      const error = tensor.left
      return error instanceof PlanError || error instanceof ModelError
        ? asIs(error.message.replace(/\.$/, ""))
        : yield* Effect.fail(error)
    }
    const { engine } = ground
    const devices = layer.devices.map(({ name }) => name)
    const { event: computing } = yield* engine.request({ type: "computeSpeeds", devices })
    const { event: links } = yield* engine.request({ type: "speeds", waits: false })
    const measured = { ...computing, links: links.speeds }
    const isBf16 = options.wire === "bf16" && computing.speakBf16
    const choice = chooseSplit(workOf(gguf), layer, tensor.right, measured, isBf16)
    const isCut = "times" in choice && choice.times.faster === "tensor"
    return { ...(isCut ? tensor.right : layer), choice }
  })

/** Devices of this machine are alike as a rule, and nothing of theirs is measured. */
const measuredShares = (
  engine: EngineHost,
  gguf: GgufFile,
  devices: ReadonlyArray<EngineDevice>,
): Effect.Effect<CutShares, ClusterError> =>
  devices.some(({ endpoint }) => endpoint === undefined)
    ? Effect.succeed({ reason: "devices of this machine are not measured" })
    : Effect.suspend(() => {
        const names = devices.map(({ name }) => name)
        return Effect.map(engine.request({ type: "computeSpeeds", devices: names }), ({ event }) =>
          cutSharesOf(workOf(gguf), names, event.devices),
        )
      })

const planOn = (
  { engine, places, memory }: Ground,
  gguf: GgufFile,
  options: PlanOptions,
): Planning =>
  Effect.gen(function* () {
    const { path } = gguf
    const context = yield* orPlanError(() => contextOptions(gguf, options))
    const find = deviceFinder(memory.devices, places)
    const deviceIndexes = yield* orPlanError(() =>
      chosenDevices(options.devices, find, memory.devices.length),
    )
    const model = yield* orPlanError(() => modelOptions(options, find))
    const devices = deviceIndexes.map((index) => memory.devices[index]!)
    const layers = layerBytes(gguf)
    const cutsTensors = yield* orPlanError(() => cutsTensorsOf(options, devices, model))
    const cutShares =
      cutsTensors && options.tensorSplit === undefined
        ? yield* measuredShares(engine, gguf, devices)
        : undefined
    const adapters = yield* Effect.forEach(options.adapters ?? [], (adapter) =>
      loadAdapterHeader(adapter.path, gguf),
    )
    const input: PlannerInput = {
      devices,
      host: memory.host,
      pools: poolsOf(devices, memory.host),
      unitBytes: [...layers.layers, layers.outputBytes],
      tensorSplit: options.tensorSplit,
      cutsTensors,
      speeds: cutShares !== undefined && "speeds" in cutShares ? cutShares.speeds : undefined,
      gpuLayers:
        options.gpuLayers === undefined || options.gpuLayers < 0 ? undefined : options.gpuLayers,
      contextSize: context.contextSize,
      minContextSize: options.contextSize
        ? undefined
        : Math.min(MIN_CONTEXT_SIZE, context.contextSize),
      // What adapters may take on a device at most; they are not measured.
      headroomBytes: adapters.reduce(
        (sum, adapter) => sum + tensorBytes(adapter),
        options.headroomBytes ?? HEADROOM_BYTES,
      ),
      mapsWeights: model.mmap,
    }
    /** Of the candidate that was measured last: that of the plan, or the one that did not fit. */
    let unsupported: ReadonlyArray<PlanUnsupported> = []
    let exactServers: ReadonlyArray<LackingServer> = []
    const named = ({ device, ...ops }: UnsupportedOps): PlanUnsupported => ({
      device: memory.devices[device]!.name,
      place: places[device]!,
      ...ops,
    })
    const usedPlaces = deviceIndexes.map((index) => places[index]!)
    const pipeline = {
      ...{ context, places: usedPlaces, groups: options.groups, ubatchSize: options.ubatchSize },
      unitCount: input.unitBytes.length,
    }
    yield* orPlanError(() => checkGroups(options.groups, context.slotCount ?? 1))
    const outline = yield* modelOutline(gguf)
    const measure = (mostGroups: number) => (candidate: Candidate) => {
      const measuredContext = pipelinedContext(pipeline, candidate, mostGroups)
      return Effect.flatMap(
        engine.request({
          type: "measure",
          path,
          ...(outline === undefined ? {} : { outline }),
          placement: {
            devices: deviceIndexes,
            unitCounts: candidate.unitCounts,
            ...(candidate.shares && { shares: candidate.shares }),
          },
          context: measuredContext,
          model,
        }),
        ({ event }) => {
          unsupported = event.unsupported.map(named)
          exactServers = event.exactServers
          const [first] = unsupported
          // What goes elsewhere does not come back in parts.
          return candidate.shares !== undefined && first !== undefined
            ? Effect.fail(new PlanError({ reason: "split-mode", detail: cannotCutOver(first) }))
            : Effect.succeed({
                ...measurementOf(event.rows, deviceIndexes),
                groupCount: measuredContext.groupCount,
              })
        },
      )
    }
    const plannedFor = (given: PlannerInput) =>
      orFewerGroups((mostGroups) =>
        Effect.map(runPlanner(given, measure(mostGroups)), (plan) => ({
          plan,
          context: pipelinedContext(pipeline, candidateOf(plan), mostGroups),
        })),
      ).pipe(Effect.mapError((error) => withReasons(error, unsupported)))
    const first = yield* plannedFor(input)
    // Where one device alone has room for a part, there is nothing to cut.
    const cutCount = first.plan.devices.filter(({ share = 0 }) => share > 0).length
    const { plan, context: planned } =
      cutsTensors && cutCount < 2 ? yield* plannedFor({ ...input, cutsTensors: false }) : first
    const name = ggufString(gguf, "general.name")
    return {
      ...plan,
      path,
      architecture: ggufString(gguf, "general.architecture") ?? "unknown",
      ...(name === undefined ? {} : { name }),
      modelBytes: tensorBytes(gguf),
      ...(plan.splitMode === "tensor" && cutShares && { cutShares }),
      context: planned,
      model,
      deviceIndexes,
      places: usedPlaces,
      unsupported,
      exactServers,
    }
  }).pipe(Effect.scoped)

const candidateOf = ({ devices, contextSize, splitMode }: Plan): Candidate => ({
  unitCounts: devices.map(({ unitCount }) => unitCount),
  ...(splitMode === "tensor" && { shares: devices.map(({ share = 0 }) => share) }),
  contextSize,
})

/** What a device does not support takes memory elsewhere. */
const withReasons = <E>(
  error: E | PlanError,
  unsupported: ReadonlyArray<PlanUnsupported>,
): E | PlanError =>
  error instanceof PlanError && error.reason === "does-not-fit" && unsupported.length > 0
    ? new PlanError({
        ...error,
        reason: error.reason,
        detail: [error.detail, ...unsupported.map((ops) => `${describeUnsupported(ops)}.`)].join(
          " ",
        ),
      })
    : error

/** What plain code gives, or the error that it throws about what was asked for; anything else is a defect. */
const orPlanError = <A>(work: () => A): Effect.Effect<A, PlanError | ModelError> =>
  Effect.catchAll(Effect.try({ try: work, catch: (error) => error }), (error) =>
    error instanceof PlanError || error instanceof ModelError
      ? Effect.fail(error)
      : Effect.die(error),
  )

const runPlanner = <E>(
  input: PlannerInput,
  measure: (candidate: Candidate) => Effect.Effect<Measurement, E>,
): Effect.Effect<Plan, E | PlanError | ModelError> =>
  Effect.gen(function* () {
    const steps = planSteps(input)
    const advance = (measured?: Measurement) =>
      orPlanError(() => (measured === undefined ? steps.next() : steps.next(measured)))
    let step = yield* advance()
    while (!step.done) step = yield* advance(yield* measure(step.value))
    return step.value
  })
