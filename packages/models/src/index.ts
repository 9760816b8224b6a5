/** GGUF models by name. See README.md for where to start. */
export type { CachedModel, CachedModels, CachedPartial, RemovedModel } from "./cached.ts"
export * from "./errors.ts"
export type { DownloadProgress, FetchedModel, ModelOptions, ModelSource } from "./locate.ts"
export { type LocatedModel, listModels, locateModel, removeModel } from "./models.ts"
