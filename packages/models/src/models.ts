/** The models of this machine as effects: interrupted, a download stops, keeps what has come, and frees what it held. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { GgufError } from "@ggml-rpc/gguf"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as cached from "./cached.ts"
import { isModelsError, type ModelsError } from "./errors.ts"
import {
  type FetchedModel,
  fetchLocated,
  type Located,
  locate,
  type ModelOptions,
  type ModelSource,
  saveHeader,
} from "./locate.ts"

/** Where a model is; nothing has been downloaded. */
export interface LocatedModel {
  /** Whether all of it is on the disk. */
  readonly isLocal: boolean
  /** Its files, downloaded where they are not on the disk. */
  readonly fetch: Effect.Effect<FetchedModel, ModelsError>
  /**
   * A file that has its header: the model where it is on the disk, else one whose weights are holes, until the scope
   * closes.
   */
  readonly header: Effect.Effect<string, ModelsError | GgufError, Scope.Scope>
}

/** Finds a model by name: asks the hub, or the server of a URL, unless `options.offline` says not to. */
export const locateModel = (
  source: ModelSource,
  options: ModelOptions = {},
): Effect.Effect<LocatedModel, ModelsError> =>
  Effect.map(
    interruptible((signal) => locate(source, options, signal)),
    (located): LocatedModel => ({
      isLocal: located.kind === "local",
      fetch: interruptible((signal) => fetchLocated(located, signal)),
      header: headerOf(located, options),
    }),
  )

const headerOf = (located: Located, options: ModelOptions) =>
  located.kind === "local"
    ? Effect.succeed(located.paths[0]!)
    : Effect.flatMap(temporaryFolder, (folder) =>
        interruptible<string, ModelsError | GgufError>((signal) =>
          saveHeader(located, folder, options, signal),
        ),
      )

const temporaryFolder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "ggml-rpc-header-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true })),
)

/** What is on the disk. */
export const listModels: Effect.Effect<cached.CachedModels> = Effect.sync(cached.listModels)

/**
 * Removes a model: `user/repo:quant`, all of `user/repo`, or a file that came by URL, by its name. What a broken-off
 * download has left goes as well.
 */
export const removeModel = (name: string): Effect.Effect<cached.RemovedModel, ModelsError> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(cached.removeModel(name))
    } catch (error) {
      return isModelsError(error) ? Effect.fail(error) : Effect.die(error)
    }
  })

/** Interrupted, it waits until `run` has ended: its locks and files are free then. */
const interruptible = <A, E extends ModelsError | GgufError = ModelsError>(
  run: (signal: AbortSignal) => Promise<A>,
): Effect.Effect<A, E> =>
  Effect.async((resume) => {
    const controller = new AbortController()
    const running = run(controller.signal).then(
      (value) => resume(Effect.succeed(value)),
      (error) => resume(isExpected(error) ? Effect.fail(error as E) : Effect.die(error)),
    )
    return Effect.promise(() => {
      controller.abort()
      return running
    })
  })

const isExpected = (error: unknown): boolean => isModelsError(error) || error instanceof GgufError
