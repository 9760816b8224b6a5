/**
 * Finds out what the weights in models of this machine hash to, so that clients need not send them (`ModelIndex`). Reads models when a
 * core has nothing else to do, each once: what was found stays in the index's folder.
 */
import { readdir } from "node:fs/promises"
import { basename, join, sep } from "node:path"
import { modelFiles, readPartName, tensorPlaces } from "@ggml-rpc/gguf"
import { io, isRememberable, modelState, WeightFile, WeightHashes } from "@ggml-rpc/native/bindings"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { LogSink } from "./log.ts"

/** Models of this machine that clients may be given weights of. */
export interface ModelsConfig {
  /** Folders of GGUF files, absolute, without links. */
  readonly folders: readonly string[]
  /** Where the index is, absolute. */
  readonly indexFolder: string
}

/** How often folders are looked at for new models, and how often whether one is through. */
const RESCAN_INTERVAL = Duration.seconds(30)
/** The same where one was written so lately that it may still change. */
const SOON = Duration.seconds(2)
const POLL_INTERVAL = Duration.millis(200)

/** Hugging Face's cache nests five deep. */
const MAX_DEPTH = 8
const MAX_MODELS = 1000
/** Smaller weights are sent: see `ServeOptions.cacheMinBytes`. */
const MIN_WEIGHT_BYTES = 1024

const isLaterPart = (path: string): boolean => (readPartName(path)?.index ?? 0) !== 0

/** At most `limit` models below folders: of split ones the first file. */
export const findModels = async (
  folders: readonly string[],
  limit = MAX_MODELS,
): Promise<readonly string[]> => {
  const found: string[] = []
  const look = async (folder: string, depth: number): Promise<void> => {
    for (const entry of await readdir(folder, { withFileTypes: true }).catch(() => [])) {
      if (found.length === limit) return
      const path = join(folder, entry.name)
      if (entry.isDirectory()) {
        if (depth < MAX_DEPTH) await look(path, depth + 1)
        continue
      }
      const isModel = entry.name.endsWith(".gguf") && !isLaterPart(path)
      if (isModel && (entry.isFile() || entry.isSymbolicLink())) found.push(path)
    }
  }
  for (const folder of folders) await look(folder, 0)
  return found
}

/** Keeps the index up to date until the scope closes. */
export const indexModels = (
  config: ModelsConfig,
  log: LogSink,
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.gen(function* () {
    const indexer = new ModelIndexer(config, log)
    yield* Effect.addFinalizer(() => Effect.sync(() => io().io_stop_hashing()))
    const round = Effect.gen(function* () {
      for (const path of yield* Effect.promise(() => findModels(config.folders))) {
        yield* Effect.repeat(Effect.sleep(POLL_INTERVAL), {
          until: () => io().io_is_hashing() === 0,
        }).pipe(Effect.when(() => io().io_is_hashing() !== 0))
        indexer.begin(path)
        // What a model's header takes to read is time in which nobody is let in.
        yield* Effect.sleep(0)
      }
      yield* Effect.sleep(indexer.takeUnsettled() ? SOON : RESCAN_INTERVAL)
    })
    yield* Effect.forkScoped(Effect.forever(round))
  })

/** @internal */
export class ModelIndexer {
  readonly #config: ModelsConfig
  readonly #log: LogSink
  /** Of models that are in the index, and of those that cannot be, what they were like then. */
  readonly #done = new Map<string, string>()

  #hasUnsettled = false

  constructor(config: ModelsConfig, log: LogSink) {
    this.#config = config
    this.#log = log
  }

  /** Whether a model may still change, since this was asked last. */
  takeUnsettled(): boolean {
    const found = this.#hasUnsettled
    this.#hasUnsettled = false
    return found
  }

  /** Begins to hash what is not known of a model. */
  begin(path: string): void {
    const { indexFolder } = this.#config
    const state = this.#stateOf(path)
    if (state === undefined || this.#done.get(path) === state) return
    const hashes = WeightHashes.open(modelFiles(path), indexFolder, MAX_MODELS)
    if (hashes.sources.length === 0) {
      // One that lacks a file, or cannot be read, is looked at again when it has changed.
      if (hashes.isUnsettled) this.#hasUnsettled = true
      else this.#done.set(path, state)
      return
    }
    const missing = [...tensorPlaces(path)].filter(
      ([name, { sizeBytes }]) =>
        sizeBytes >= MIN_WEIGHT_BYTES &&
        isRememberable(name) &&
        hashes.find(name, sizeBytes) === undefined,
    )
    if (missing.length === 0) {
      this.#done.set(path, state)
      return
    }
    const file = WeightFile.open(hashes)
    if (file === undefined) return
    this.#log({
      level: "info",
      message: `reading ${basename(path)}, so that clients need not send ${missing.length} of its weights`,
    })
    if (!file.hashBeside(missing, hashes)) {
      this.#log({
        level: "warning",
        message: `the index of models in ${indexFolder} cannot be written, or this process has no thread for it: clients send these weights`,
      })
      this.#done.set(path, state)
    }
  }

  /** Undefined for what lies outside of the folders, which sessions cannot read. */
  #stateOf(path: string): string | undefined {
    return modelState(modelFiles(path), (real) =>
      this.#config.folders.some((folder) => real.startsWith(folder + sep)),
    )
  }
}
