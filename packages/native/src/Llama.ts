/**
 * libllama as an Effect service: models, and through them contexts, tokens and samplers.
 *
 * Acquiring goes through Effect (it can fail and must be released); what runs per token is a plain
 * synchronous method of the acquired handle, and blocks.
 */
import { ptr, read } from "bun:ffi"
import { existsSync } from "node:fs"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { PrebuiltMissingError } from "../scripts/source.ts"
import { logTail, saysOutOfMemory, takeFailureLog } from "./failureLog.ts"
import { type Address, asPointer, cString } from "./io.ts"
import { takeLog } from "./libggml.ts"
import { llama } from "./libllama.ts"
import { libraryErrorOf, type NativeLibraryError } from "./libraries.ts"
import { Model } from "./Model.ts"

export interface ModelOptions {
  /** Devices to put layers on, in the order of the split; none, the default, computes on the CPU. */
  readonly devices?: ReadonlyArray<Address>
  /** Share of the layers that each device gets, one number a device; by free memory if not given. */
  readonly tensorSplit?: ReadonlyArray<number>
  /** Layers on the devices, counted from the last; -1, the default, is all. */
  readonly gpuLayers?: number
  /** Maps the file instead of reading it; true. */
  readonly mmap?: boolean
  /** Loads only metadata, to measure what a context would take. */
  readonly noAlloc?: boolean
  /** Loads only the tokenizer. */
  readonly vocabOnly?: boolean
  /** Looks for values in the weights that are not numbers. */
  readonly checkTensors?: boolean
  /** Lets the CPU repack weights into layouts that it computes faster; true. */
  readonly extraBufferTypes?: boolean
  /** Address of an int that stops the loading when it is not 0. */
  readonly abortFlag?: Address
}

/** A model file that did not load. */
export class ModelLoadError extends Data.TaggedError("ModelLoadError")<{
  /**
   * `file`: there is none; `options`: they cannot be met; `memory`: a device could not hold its part;
   * `aborted`: the abort flag was raised; `model`: llama.cpp refused it.
   */
  readonly reason: "file" | "options" | "memory" | "aborted" | "model"
  readonly path: string
  readonly message: string
  /** What ggml and llama logged about it. */
  readonly log: string
}> {}

export class Llama extends Context.Tag("@ggml-rpc/native/Llama")<
  Llama,
  {
    /** Most devices that one model can be split over. */
    readonly maxDeviceCount: number
    /** Loads a GGUF file, blocking; freed when the scope closes. */
    readonly loadModel: (
      path: string,
      options?: ModelOptions,
    ) => Effect.Effect<Model, ModelLoadError, Scope.Scope>
  }
>() {}

/** Opens the libraries, which stay open until the process ends: ggml cannot be unloaded. */
export const layer: Layer.Layer<Llama, NativeLibraryError | PrebuiltMissingError> = Layer.effect(
  Llama,
  Effect.try({
    try: () => {
      const maxDeviceCount = Number(llama().llama_max_devices())
      return Llama.of({
        maxDeviceCount,
        loadModel: (path, options = {}) => loadModel(path, options, maxDeviceCount),
      })
    },
    catch: libraryErrorOf,
  }),
)

const loadModel = Effect.fn("Llama.loadModel")(function* (
  path: string,
  options: ModelOptions,
  maxDeviceCount: number,
) {
  const problem = optionsProblem(options, maxDeviceCount)
  if (problem !== undefined) {
    return yield* new ModelLoadError({ reason: "options", path, message: problem, log: "" })
  }
  if (!existsSync(path)) {
    return yield* new ModelLoadError({
      reason: "file",
      path,
      message: `There is no model file ${path}: check the path.`,
      log: "",
    })
  }
  return yield* Effect.acquireRelease(
    Effect.suspend(() => openModel(path, options, maxDeviceCount)),
    (model) => Effect.sync(() => model.release()),
  )
})

const optionsProblem = (options: ModelOptions, maxDeviceCount: number): string | undefined => {
  const count = options.devices?.length ?? 0
  if (count > maxDeviceCount) {
    return `${count} devices for one model: llama.cpp splits over at most ${maxDeviceCount}; use fewer.`
  }
  const split = options.tensorSplit
  if (split !== undefined && split.length !== count) {
    return `The tensor split has ${split.length} numbers for ${count} devices: give one number for each.`
  }
  return undefined
}

/** In the order of shim/llama.cpp `model_options`. */
const modelBlock = (options: ModelOptions, devices: BigUint64Array, split: Float32Array) =>
  Float64Array.of(
    devices.length > 1 ? ptr(devices) : 0,
    options.tensorSplit === undefined ? 0 : ptr(split),
    options.gpuLayers ?? -1,
    options.mmap === false ? 0 : 1,
    options.noAlloc ? 1 : 0,
    options.vocabOnly ? 1 : 0,
    options.checkTensors ? 1 : 0,
    options.extraBufferTypes === false ? 0 : 1,
    options.abortFlag ?? 0,
  )

const openModel = (
  path: string,
  options: ModelOptions,
  maxDeviceCount: number,
): Effect.Effect<Model, ModelLoadError> => {
  // Null-terminated. llama reads both arrays by address until the model is loaded.
  const devices = BigUint64Array.from([...(options.devices ?? []), 0], BigInt)
  const split = new Float32Array(maxDeviceCount)
  split.set(options.tensorSplit ?? [])
  takeLog()
  inUse.add(devices).add(split)
  const address = llama().ls_model_load(cString(path), modelBlock(options, devices, split))
  inUse.delete(devices)
  inUse.delete(split)
  if (address === null) return Effect.fail(loadError(path, options))
  return Effect.sync(
    () =>
      new Model(address as Address, {
        path,
        noAlloc: options.noAlloc ?? false,
        vocabOnly: options.vocabOnly ?? false,
      }),
  )
}

/** Arrays that native code reads by address, which the garbage collector cannot see. */
const inUse = new Set<object>()

const loadError = (path: string, options: ModelOptions): ModelLoadError => {
  const log = takeFailureLog()
  if (options.abortFlag !== undefined && read.i32(asPointer(options.abortFlag), 0) !== 0) {
    return new ModelLoadError({
      reason: "aborted",
      path,
      message: `Loading ${path} was stopped.`,
      log,
    })
  }
  return saysOutOfMemory(log)
    ? new ModelLoadError({
        reason: "memory",
        path,
        message: `A device has no room for its part of ${path} (${logTail(log)}): give it fewer layers, add devices, or use a smaller quantization.`,
        log,
      })
    : new ModelLoadError({
        reason: "model",
        path,
        message: `llama.cpp could not load ${path}: ${logTail(log)}.`,
        log,
      })
}
