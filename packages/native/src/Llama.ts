/**
 * libllama as an Effect service: models, and through them contexts, tokens and samplers.
 *
 * Acquiring goes through Effect (it can fail and must be released); what runs per token is a plain
 * synchronous method of the acquired handle, and blocks.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import {
  LlamaModel,
  ModelLoadError,
  type ModelOptions,
  TokenizeError,
  type TokenizeOptions,
} from "./LlamaModel.ts"
import { llama } from "./libllama.ts"
import { libraryErrorOf, type NativeLibraryError } from "./libraries.ts"
import { ContextError, type ContextOptions, type ModelContext } from "./ModelContext.ts"
import type { PrebuiltMissingError } from "./prebuilt.ts"
import type { Sampler, SamplerOptions } from "./Sampler.ts"

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
      return Llama.of({ maxDeviceCount, loadModel })
    },
    catch: libraryErrorOf,
  }),
)

/** A loaded model that its scope releases, and whose contexts and samplers are scoped as well. */
export class Model extends LlamaModel {
  /** The tokens of a text. */
  tokenize(text: string, options?: TokenizeOptions): Effect.Effect<Int32Array, TokenizeError> {
    return attempt(() => this.encodeText(text, options), TokenizeError)
  }

  /** Makes a context, which ends with the scope, or with the model if that ends first. */
  newContext(options?: ContextOptions): Effect.Effect<ModelContext, ContextError, Scope.Scope> {
    return Effect.acquireRelease(
      attempt(() => this.openContext(options), ContextError),
      (context) => Effect.sync(() => context.release()),
    )
  }

  /** Makes a sampler, which ends with the scope. */
  newSampler(options?: SamplerOptions): Effect.Effect<Sampler, never, Scope.Scope> {
    return Effect.acquireRelease(
      Effect.sync(() => this.openSampler(options)),
      (sampler) => Effect.sync(() => sampler.release()),
    )
  }
}

const loadModel = (
  path: string,
  options?: ModelOptions,
): Effect.Effect<Model, ModelLoadError, Scope.Scope> =>
  Effect.acquireRelease(
    attempt(() => Model.open(path, options), ModelLoadError),
    (model) => Effect.sync(() => model.release()),
  )

/** Fails with an error of this class that was thrown; every other one is a defect. */
const attempt = <A, E extends Error>(
  run: () => A,
  ErrorClass: abstract new (...args: never) => E,
): Effect.Effect<A, E> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(run())
    } catch (error) {
      if (error instanceof ErrorClass) return Effect.fail(error)
      throw error
    }
  })
