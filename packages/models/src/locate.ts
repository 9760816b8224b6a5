/** A model's files by its name: on the disk, or downloaded to where llama.cpp looks for them. */
import { statSync } from "node:fs"
import { dirname } from "node:path"
import { saveGgufHeader } from "@ggml-rpc/gguf"
import { chooseModel, namePartsOf, partsOf, tagsOf } from "./choose.ts"
import { type DownloadOptions, download, systemErrorOf } from "./download.ts"
import { isModelsError, ModelNotFoundError, OfflineError } from "./errors.ts"
import { FileLock } from "./FileLock.ts"
import { Hub, type HubFile, hubEndpoint } from "./Hub.ts"
import { HubCache, hubCacheFolder, sizeOf } from "./HubCache.ts"
import type { HttpOptions } from "./http.ts"
import { formatModelName, type ModelName, parseModelName } from "./modelName.ts"
import {
  headOf,
  headOrError,
  isCurrent,
  isHere,
  type UrlFile,
  urlFiles,
  urlLockPath,
  writeEtag,
} from "./UrlModel.ts"

/** A model that is given by name. */
export type ModelSource =
  /** `name` is `user/repo[:quant]`; `file` a path in the repository, instead of the quantization. */
  | { readonly kind: "hub"; readonly name: string; readonly file?: string | undefined }
  /** `path` is where it goes, instead of llama.cpp's cache. */
  | { readonly kind: "url"; readonly url: string; readonly path?: string | undefined }

export interface DownloadProgress {
  /** Of all files of the model; what was there before counts as well. */
  readonly doneBytes: number
  /** As far as it is known. */
  readonly totalBytes: number
}

export interface ModelOptions extends Omit<DownloadOptions, "signal" | "onProgress"> {
  /** Ask no server. */
  readonly offline?: boolean | undefined
  /** For the hub; undefined: `HF_TOKEN`. */
  readonly token?: string | undefined
  readonly onProgress?: (progress: DownloadProgress) => void
  /** What a user should know meanwhile, a sentence. */
  readonly onNote?: (text: string) => void
}

/** A model that is on the disk. */
export interface FetchedModel {
  /** Of its first file, which is what loads it. */
  readonly path: string
  readonly paths: readonly string[]
  readonly sizeBytes: number
  /** What had to come over the network. */
  readonly downloadedBytes: number
}

/** Where a model is. Its `fetch` and `header` end with the signal that they are given. */
export type Located =
  | { readonly kind: "local"; readonly paths: readonly string[] }
  | {
      readonly kind: "remote"
      readonly fetch: (signal: AbortSignal) => Promise<FetchedModel>
      /** Where the first file is; rejects when the server would not give it. */
      readonly header: (
        signal: AbortSignal,
      ) => Promise<{ url: string; headers: Readonly<Record<string, string>> }>
    }

/** @returns where the model is; rejects with a `ModelsError` */
export const locate = (
  source: ModelSource,
  options: ModelOptions,
  signal: AbortSignal,
): Promise<Located> => {
  const hubFor: HubFor = (http) =>
    new Hub(hubEndpoint(), options.token?.trim() || process.env.HF_TOKEN?.trim() || undefined, http)
  return source.kind === "hub"
    ? locateOnHub(hubFor, source, options, signal)
    : locateUrl(hubFor({ ...options, signal }), source, options, signal)
}

/** The hub, asked until a signal ends it. */
type HubFor = (http: HttpOptions) => Hub

export const fetchLocated = async (located: Located, signal: AbortSignal): Promise<FetchedModel> =>
  located.kind === "local" ? fetchedModel(located.paths, 0) : located.fetch(signal)

/** Fetches a model's header into a file in `folder` whose weights are holes. Rejects with `ModelsError` or `GgufError`. */
export const saveHeader = async (
  located: Located & { readonly kind: "remote" },
  folder: string,
  options: ModelOptions,
  signal: AbortSignal,
): Promise<string> => {
  const { url, headers } = await located.header(signal)
  return saveGgufHeader(url, folder, { ...given(options), headers, signal })
}

const given = ({ timeoutMs, retryDelayMs }: ModelOptions) => ({
  ...(timeoutMs === undefined ? {} : { timeoutMs }),
  ...(retryDelayMs === undefined ? {} : { retryDelayMs }),
})

const fetchedModel = (paths: readonly string[], downloadedBytes: number): FetchedModel => ({
  path: paths[0]!,
  paths,
  sizeBytes: paths.reduce((sum, path) => sum + statSync(path).size, 0),
  downloadedBytes,
})

// ---- hub ------------------------------------------------------------------------------------------

const locateOnHub = async (
  hubFor: HubFor,
  { name, file }: ModelSource & { readonly kind: "hub" },
  options: ModelOptions,
  signal: AbortSignal,
): Promise<Located> => {
  const hub = hubFor({ ...options, signal })
  const model = parseModelName(name)
  const cache = new HubCache(hubCacheFolder())
  if (options.offline) {
    const paths = cachedPaths(cache, model, file)
    if (paths !== undefined) return { kind: "local", paths }
    throw new OfflineError({ name: describe(model, file), folder: cache.folder })
  }
  let commit: string
  let all: readonly HubFile[]
  try {
    commit = await hub.commitOf(model.repo)
    all = await hub.filesOf(model.repo, commit)
  } catch (error) {
    // As llama.cpp does: what is here is good enough when the hub is not.
    const paths = isModelsError(error) ? cachedPaths(cache, model, file) : undefined
    if (paths === undefined) throw error
    options.onNote?.(`${(error as Error).message} What is in ${cache.folder} is used.`)
    return { kind: "local", paths }
  }
  const files = wantedFiles(hub, model, file, all)
  const pathOf = ({ path }: HubFile) => cache.snapshotPath(model.repo, commit, path)
  if (files.every((wanted) => sizeOf(pathOf(wanted)) === wanted.sizeBytes)) {
    try {
      cache.writeCommit(model.repo, commit)
    } catch {
      // On a disk that is only read; the model can be used all the same.
    }
    return { kind: "local", paths: files.map(pathOf) }
  }
  return {
    kind: "remote",
    fetch: async (ending) => {
      const progress = new Progress(files, options)
      const http = { ...options, signal: ending }
      for (const wanted of files) {
        await fetchHubFile(hub, cache, model.repo, commit, wanted, options, http, progress)
      }
      onDisk(cache.folder, () => cache.writeCommit(model.repo, commit))
      return fetchedModel(files.map(pathOf), progress.downloadedBytes)
    },
    header: async (ending) => {
      const { url } = files[0]!
      await hubFor({ ...options, signal: ending }).check(files[0]!, model.repo)
      return { url, headers: hub.headersFor(url) }
    },
  }
}

const describe = (model: ModelName, file: string | undefined): string =>
  file === undefined ? formatModelName(model) : `${model.repo}/${file}`

/** The model's files, if all of them are here. */
const cachedPaths = (
  cache: HubCache,
  { repo, tag }: ModelName,
  file: string | undefined,
): readonly string[] | undefined => {
  const all = cache.files(repo)
  const first =
    file === undefined ? chooseModel(all, tag) : all.find((cached) => cached.path === file)
  if (first === undefined) return undefined
  const parts = partsOf(all, first)
  const isWhole = parts.length === (namePartsOf(first.path)?.count ?? 1)
  return isWhole ? parts.map(({ localPath }) => localPath) : undefined
}

const wantedFiles = (
  hub: Hub,
  model: ModelName,
  file: string | undefined,
  all: readonly HubFile[],
): readonly HubFile[] => {
  const name = describe(model, file)
  const first = file === undefined ? chooseModel(all, model.tag) : all.find((f) => f.path === file)
  if (first === undefined)
    throw new ModelNotFoundError({ name, detail: whatIsThere(hub, model, all) })
  const parts = partsOf(all, first)
  const count = namePartsOf(first.path)?.count ?? 1
  if (parts.length === count) return parts
  const detail = `the repository has ${parts.length} of the ${count} files of ${first.path}`
  throw new ModelNotFoundError({ name, detail })
}

const MAX_LISTED = 30

const whatIsThere = (hub: Hub, { repo }: ModelName, all: readonly HubFile[]): string => {
  const tags = tagsOf(all)
  if (tags.length > 0) {
    const more = tags.length > MAX_LISTED ? ", …" : ""
    return `${hub.endpoint}/${repo} has ${tags.slice(0, MAX_LISTED).join(", ")}${more}`
  }
  const names = all.filter(({ path }) => path.endsWith(".gguf")).map(({ path }) => path)
  return names.length > 0
    ? `${hub.endpoint}/${repo} has ${names.slice(0, MAX_LISTED).join(", ")}`
    : `${hub.endpoint}/${repo} has no GGUF files; models in other formats have to be converted`
}

const fetchHubFile = async (
  hub: Hub,
  cache: HubCache,
  repo: string,
  commit: string,
  file: HubFile,
  options: ModelOptions,
  http: HttpOptions,
  progress: Progress,
): Promise<void> => {
  const { path, oid, digest, sizeBytes, url } = file
  const blob = cache.blobPath(repo, oid)
  await locked(cache.lockPath(repo, oid), path, options, http.signal, async () => {
    if (sizeOf(cache.snapshotPath(repo, commit, path)) === sizeBytes) return
    if (sizeOf(blob) !== sizeBytes) {
      await download(
        {
          url,
          headers: hub.headersFor(url),
          path: blob,
          sizeBytes,
          digest,
          asker: hub.asker(repo),
        },
        { ...options, ...http, onProgress: (doneBytes) => progress.at(file, doneBytes) },
      )
    }
    onDisk(blob, () => cache.link(repo, commit, path, oid))
  })
  progress.at(file, sizeBytes, true)
}

// ---- URL ------------------------------------------------------------------------------------------

const locateUrl = async (
  hub: Hub,
  { url, path }: ModelSource & { readonly kind: "url" },
  options: ModelOptions,
  signal: AbortSignal,
): Promise<Located> => {
  // Only to the hub's own addresses: a token is nobody else's business.
  const files = urlFiles(url, path, (target) => hub.headersFor(target))
  const local: Located = { kind: "local", paths: files.map((file) => file.path) }
  if (options.offline) {
    if (files.every(isHere)) return local
    const [{ asker, path: first }] = files as [UrlFile]
    throw new OfflineError({ name: asker.name, folder: dirname(first) })
  }
  const stale: UrlFile[] = []
  for (const file of files) {
    const head = await headOrError(file, { ...options, signal })
    if (!isModelsError(head)) {
      if (!isCurrent(file.path, head)) stale.push(file)
      continue
    }
    if (!isHere(file)) throw head
    options.onNote?.(`${head.message} ${file.path} is used.`)
  }
  if (stale.length === 0) return local
  return {
    kind: "remote",
    fetch: async (ending) => {
      const progress = new Progress<UrlFile>([], options)
      const http = { ...options, signal: ending }
      for (const file of stale) await fetchUrlFile(file, options, http, progress)
      return fetchedModel(local.paths, progress.downloadedBytes)
    },
    header: async () => ({ url: files[0]!.url, headers: files[0]!.headers }),
  }
}

const fetchUrlFile = async (
  file: UrlFile,
  options: ModelOptions,
  http: HttpOptions,
  progress: Progress<UrlFile>,
): Promise<void> => {
  const { url, headers, path, asker } = file
  await locked(urlLockPath(path), asker.name, options, http.signal, async () => {
    // Anew: another process may have brought it meanwhile.
    const { etag, sizeBytes, digest } = await headOf(file, http)
    if (isCurrent(path, { etag, sizeBytes, digest })) return
    if (sizeBytes !== undefined) progress.announce(sizeBytes)
    await download(
      { url, headers, path, sizeBytes, digest, etag, asker },
      { ...options, ...http, onProgress: (doneBytes) => progress.at(file, doneBytes) },
    )
    onDisk(path, () => writeEtag(path, etag))
  })
  progress.at(file, statSync(path).size, true)
}

// ---- both -----------------------------------------------------------------------------------------

/** What the file system says is an error to be read. */
const onDisk = (path: string, use: () => void): void => {
  try {
    use()
  } catch (error) {
    throw systemErrorOf(error, path)
  }
}

/** One download at a time of a file, whoever asks for it. */
const locked = async (
  lockPath: string,
  name: string,
  options: ModelOptions,
  signal: AbortSignal,
  use: () => Promise<void>,
): Promise<void> => {
  let lock: FileLock
  try {
    lock = await FileLock.take(lockPath, signal, () =>
      options.onNote?.(`Another process downloads ${name}; waiting for it.`),
    )
  } catch (error) {
    throw systemErrorOf(error, dirname(lockPath))
  }
  try {
    await use()
  } finally {
    lock.release()
  }
}

/** What is there of all files together. */
class Progress<F extends object = HubFile> {
  readonly #onProgress: ((progress: DownloadProgress) => void) | undefined
  readonly #doneBytes = new Map<F, number>()
  /** What was on the disk before. */
  readonly #startBytes = new Map<F, number>()
  #totalBytes: number

  constructor(files: ReadonlyArray<F & { readonly sizeBytes: number }>, options: ModelOptions) {
    this.#onProgress = options.onProgress
    this.#totalBytes = files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  }

  get downloadedBytes(): number {
    let bytes = 0
    for (const [file, done] of this.#doneBytes) bytes += done - this.#startBytes.get(file)!
    return bytes
  }

  announce(sizeBytes: number): void {
    this.#totalBytes += sizeBytes
  }

  /** `isAll` for a file that was there, or has been reported to its end. */
  at(file: F, doneBytes: number, isAll = false): void {
    if (!this.#startBytes.has(file)) this.#startBytes.set(file, doneBytes)
    this.#doneBytes.set(file, doneBytes)
    if (isAll && this.#startBytes.get(file) === doneBytes) return
    const done = [...this.#doneBytes.values()].reduce((sum, bytes) => sum + bytes, 0)
    this.#onProgress?.({ doneBytes: done, totalBytes: this.#totalBytes })
  }
}
