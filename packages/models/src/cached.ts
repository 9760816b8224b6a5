/** The models that are on the disk: listed, and removed. */
import { existsSync, lstatSync, readdirSync, rmSync, statSync } from "node:fs"
import { join } from "node:path"
import { llamaCacheFolder } from "@ggml-rpc/native/bindings"
import { isModelPath, namePartsOf, partsOf } from "./choose.ts"
import { systemErrorOf } from "./download.ts"
import { ModelBusyError, ModelNotFoundError } from "./errors.ts"
import { FileLock } from "./FileLock.ts"
import { HubCache, hubCacheFolder } from "./HubCache.ts"
import { formatModelName, parseModelName } from "./modelName.ts"
import { urlLockPath } from "./UrlModel.ts"

/** A model on the disk. */
export interface CachedModel {
  /** What `-hf` takes: `user/repo:quant`; of a model by URL the file's name. */
  readonly name: string
  /** Of the first file. */
  readonly path: string
  readonly sizeBytes: number
  readonly fileCount: number
  /** Files that are not there, of a split model. */
  readonly missingCount: number
  readonly changedAtMs: number
}

/** What a download that broke off has left of a repository or URL. */
export interface CachedPartial {
  readonly name: string
  /** On the disk: of what is still missing nothing is. */
  readonly sizeBytes: number
}

export interface CachedModels {
  /** Of models from a hub. */
  readonly hubFolder: string
  /** Of models by URL; the same one where `LLAMA_CACHE` is set. */
  readonly urlFolder: string
  readonly models: readonly CachedModel[]
  readonly partials: readonly CachedPartial[]
}

export const listModels = (): CachedModels => {
  const cache = new HubCache(hubCacheFolder())
  const urlFolder = llamaCacheFolder()
  const repos = cache.repos()
  return {
    hubFolder: cache.folder,
    urlFolder,
    models: [...repos.flatMap((repo) => hubModels(cache, repo)), ...urlModels(urlFolder)],
    partials: [
      ...repos.flatMap((repo) => partialOf(repo, cache.partials(repo))),
      ...filesIn(urlFolder)
        .filter((name) => name.endsWith(".part"))
        .flatMap((name) => partialOf(name.slice(0, -".part".length), [join(urlFolder, name)])),
    ],
  }
}

const hubModels = (cache: HubCache, repo: string): readonly CachedModel[] => {
  const files = cache.files(repo).map((file) => ({ ...file, at: file.localPath }))
  return modelsOf(files).map(({ first, ...model }) => {
    const { tag } = namePartsOf(first.path)!
    return { name: formatModelName(tag === "" ? { repo } : { repo, tag }), ...model }
  })
}

const urlModels = (folder: string): readonly CachedModel[] => {
  const files = filesIn(folder).map((path) => {
    const at = join(folder, path)
    return { path, at, sizeBytes: statSync(at).size }
  })
  return modelsOf(files).map(({ first, ...model }) => ({ name: first.path, ...model }))
}

interface ListedFile {
  readonly path: string
  readonly at: string
  readonly sizeBytes: number
}

const modelsOf = <F extends ListedFile>(files: readonly F[]) => {
  const models = files.filter(({ path }) => isModelPath(path))
  // By its first part that is here, which may be a later one of a download that broke off.
  const firsts = models.filter((file) => partsOf(models, file)[0] === file)
  return firsts.map((first) => {
    const parts = partsOf(models, first)
    return {
      first,
      path: first.at,
      sizeBytes: parts.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      fileCount: parts.length,
      missingCount: namePartsOf(first.path)!.count - parts.length,
      changedAtMs: Math.max(...parts.map(({ at }) => statSync(at).mtimeMs)),
    }
  })
}

const partialOf = (name: string, paths: readonly string[]): readonly CachedPartial[] => {
  const files = paths.filter((path) => !path.endsWith(".json"))
  return files.length === 0
    ? []
    : [{ name, sizeBytes: files.reduce((sum, path) => sum + diskBytes(path), 0) }]
}

/** What a file takes: one that is not whole has holes. */
const diskBytes = (path: string): number =>
  (lstatSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * 512

const filesIn = (folder: string): readonly string[] => {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ name }) => name)
      .sort()
  } catch {
    return []
  }
}

export interface RemovedModel {
  readonly name: string
  /** What the disk has got back. */
  readonly freedBytes: number
}

/**
 * Removes a model: `user/repo:quant`, all of `user/repo`, or a file that came by URL, by its name. What a broken-off
 * download has left goes as well.
 *
 * @throws {ModelNotFoundError | ModelBusyError | ModelNameError | ModelFolderError}
 */
export const removeModel = (name: string): RemovedModel =>
  name.includes("/") ? removeFromHub(name) : removeUrlModel(name)

const notHere = (name: string, folder: string): ModelNotFoundError =>
  new ModelNotFoundError({
    name,
    detail: `nothing of it is in ${folder}; 'ggml-rpc ls' lists what is`,
  })

const removeFromHub = (text: string): RemovedModel => {
  const { repo, tag } = parseModelName(text)
  const cache = new HubCache(hubCacheFolder())
  const folder = cache.repoFolder(repo)
  if (!existsSync(folder)) throw notHere(text, cache.folder)
  const isWanted = (path: string): boolean => namePartsOf(path)?.tag === tag?.toUpperCase()
  if (tag !== undefined && !cache.hasFile(repo, isWanted)) throw notHere(text, cache.folder)
  const lockPaths = cache.oids(repo).map((oid) => cache.lockPath(repo, oid))
  return withLocks(lockPaths, text, () => {
    const before = folderBytes(folder)
    try {
      if (tag === undefined) cache.removeRepo(repo)
      else cache.removeFiles(repo, isWanted)
    } catch (error) {
      throw systemErrorOf(error, join(folder, "refs"))
    }
    return { name: text, freedBytes: before - folderBytes(folder) }
  })
}

/** Keeps downloads out meanwhile. */
const withLocks = <A>(lockPaths: readonly string[], name: string, use: () => A): A => {
  const held: FileLock[] = []
  try {
    for (const path of lockPaths.filter(existsSync)) {
      const lock = tryLock(path)
      if (lock === undefined) throw new ModelBusyError({ name })
      held.push(lock)
    }
    return use()
  } finally {
    for (const lock of held) lock.release()
  }
}

const tryLock = (path: string): FileLock | undefined => {
  try {
    return FileLock.try(path)
  } catch (error) {
    throw systemErrorOf(error, path)
  }
}

const folderBytes = (folder: string): number => {
  if (!existsSync(folder)) return 0
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" })
  return names.reduce((sum, name) => sum + diskBytes(join(folder, name)), 0)
}

const removeUrlModel = (name: string): RemovedModel => {
  const folder = llamaCacheFolder()
  const all = filesIn(folder).map((path) => ({ path }))
  const isPartial = all.some(({ path }) => path === `${name}.part`)
  const first = all.find(({ path }) => path === name) ?? (isPartial ? { path: name } : undefined)
  if (first === undefined || !name.endsWith(".gguf")) throw notHere(name, folder)
  const paths = [...new Set([first, ...partsOf(all, first)].map(({ path }) => path))]
  const remove = paths.flatMap((path) =>
    ["", ".etag", ".part", ".part.json"].map((ending) => join(folder, path + ending)),
  )
  const lockPaths = paths.map((path) => urlLockPath(join(folder, path)))
  return withLocks(lockPaths, name, () => {
    const freedBytes = remove.reduce((sum, path) => sum + diskBytes(path), 0)
    try {
      for (const path of remove) rmSync(path, { force: true })
    } catch (error) {
      throw systemErrorOf(error, join(folder, name))
    }
    return { name, freedBytes }
  })
}
