/**
 * Models from a hub on the disk, in the layout that llama.cpp (v0.5.0, common/hf-cache.cpp) and Hugging Face's programs
 * share:
 *
 *     models--user--repo/refs/main                the commit that the branch had
 *     models--user--repo/blobs/<sha256>           a file's bytes, by what they are
 *     models--user--repo/snapshots/<commit>/…     the repository's files, links to blobs
 */
import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { homedir } from "node:os"
import { dirname, join, relative, resolve, sep } from "node:path"
import { isRepo } from "./modelName.ts"

type Environment = Readonly<Record<string, string | undefined>>

/** Where llama.cpp v0.5.0 keeps what it downloads from a hub: `get_cache_directory` of common/hf-cache.cpp. */
export const hubCacheFolder = (environment: Environment = process.env): string => {
  const { LLAMA_CACHE, HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, HOME } =
    environment
  const folder = LLAMA_CACHE || HF_HUB_CACHE || HUGGINGFACE_HUB_CACHE
  if (folder) return resolve(folder)
  if (HF_HOME) return resolve(HF_HOME, "hub")
  if (XDG_CACHE_HOME) return resolve(XDG_CACHE_HOME, "huggingface", "hub")
  return resolve(HOME || homedir(), ".cache", "huggingface", "hub")
}

/** A file of a repository that lies in the cache. */
export interface CachedFile {
  readonly repo: string
  /** Inside of the repository. */
  readonly path: string
  readonly localPath: string
  readonly sizeBytes: number
}

const FOLDER_PREFIX = "models--"
const isCommit = (text: string): boolean => /^[0-9a-f]{40}$/i.test(text)

export class HubCache {
  readonly folder: string

  constructor(folder: string) {
    this.folder = folder
  }

  repoFolder(repo: string): string {
    return join(this.folder, FOLDER_PREFIX + repo.replaceAll("/", "--"))
  }

  blobPath(repo: string, oid: string): string {
    return join(this.repoFolder(repo), "blobs", oid)
  }

  snapshotPath(repo: string, commit: string, path: string): string {
    return join(this.repoFolder(repo), "snapshots", commit, path)
  }

  /** Where Hugging Face's programs lock the same blob. */
  lockPath(repo: string, oid: string): string {
    return join(this.folder, ".locks", FOLDER_PREFIX + repo.replaceAll("/", "--"), `${oid}.lock`)
  }

  /** Puts a blob that is whole into a snapshot, under its name. */
  link(repo: string, commit: string, path: string, oid: string): void {
    const blob = this.blobPath(repo, oid)
    const target = this.snapshotPath(repo, commit, path)
    mkdirSync(dirname(target), { recursive: true })
    // A link to nothing, or a file that is not that blob.
    if (sizeOf(target) !== sizeOf(blob)) rmSync(target, { force: true })
    try {
      symlinkSync(relative(dirname(target), blob), target)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === "EEXIST") return
      // A file system without links: the file itself, as llama.cpp does then.
      renameSync(blob, target)
    }
  }

  /** Remembers which commit the main branch has; last, so that a download that fails leaves the one before in use. */
  writeCommit(repo: string, commit: string): void {
    const path = join(this.repoFolder(repo), "refs", "main")
    if (this.#readCommit(path) === commit) return
    mkdirSync(dirname(path), { recursive: true })
    const temporary = `${path}.${process.pid}.tmp`
    writeFileSync(temporary, commit)
    renameSync(temporary, path)
  }

  /** All repositories that are there. */
  repos(): readonly string[] {
    return namesIn(this.folder)
      .filter((name) => name.startsWith(FOLDER_PREFIX))
      .map((name) => name.slice(FOLDER_PREFIX.length).replaceAll("--", "/"))
      .filter(isRepo)
      .sort()
  }

  /** The commit that is used without a network: that of `main`, else of another branch. */
  commit(repo: string): string | undefined {
    const folder = join(this.repoFolder(repo), "refs")
    const branches = namesIn(folder).sort((a, b) => Number(b === "main") - Number(a === "main"))
    for (const branch of branches) {
      const commit = this.#readCommit(join(folder, branch))
      if (commit !== undefined) return commit
    }
    return undefined
  }

  #readCommit(path: string): string | undefined {
    try {
      const commit = readFileSync(path, "utf8").split("\n")[0]!
      return isCommit(commit) ? commit : undefined
    } catch {
      return undefined
    }
  }

  /** The files of that commit that are there and whole, in order of their names. */
  files(repo: string): readonly CachedFile[] {
    const commit = this.commit(repo)
    return commit === undefined ? [] : this.#filesIn(repo, this.snapshotPath(repo, commit, ""))
  }

  #filesIn(repo: string, folder: string): readonly CachedFile[] {
    return namesIn(folder, true)
      .sort()
      .flatMap((path) => {
        const localPath = join(folder, path)
        const sizeBytes = sizeOf(localPath)
        return sizeBytes === undefined
          ? []
          : [{ repo, path: path.replaceAll(sep, "/"), localPath, sizeBytes }]
      })
  }

  /** What broken-off downloads have left of a repository. */
  partials(repo: string): readonly string[] {
    const folder = join(this.repoFolder(repo), "blobs")
    return namesIn(folder)
      .filter((name) => PARTIAL.test(name))
      .map((name) => join(folder, name))
  }

  /** Object ids of a repository's blobs, whole or not. */
  oids(repo: string): readonly string[] {
    const names = namesIn(join(this.repoFolder(repo), "blobs"))
    return [...new Set(names.map((name) => name.split(".")[0]!))]
  }

  /** All of it but its locks: who waits for one holds the file that a newcomer would not find. */
  removeRepo(repo: string): void {
    rmSync(this.repoFolder(repo), { recursive: true, force: true })
  }

  /** Whether any snapshot has such a file. */
  hasFile(repo: string, isWanted: (path: string) => boolean): boolean {
    const names = namesIn(join(this.repoFolder(repo), "snapshots"), true)
    return names.some((name) => isWanted(pathInSnapshot(name)))
  }

  /** Removes these files of the repository, in whichever snapshot, and blobs that no snapshot has any more. */
  removeFiles(repo: string, isUnwanted: (path: string) => boolean): void {
    const snapshots = join(this.repoFolder(repo), "snapshots")
    const used = new Set<string>()
    const freed = new Set<string>()
    for (const name of namesIn(snapshots, true)) {
      const file = join(snapshots, name)
      const stats = lstatSync(file, { throwIfNoEntry: false })
      if (stats === undefined || stats.isDirectory()) continue
      const blob = stats.isSymbolicLink() ? resolve(dirname(file), readlinkSync(file)) : undefined
      const path = pathInSnapshot(name)
      if (blob !== undefined) (isUnwanted(path) ? freed : used).add(blob)
      if (isUnwanted(path)) rmSync(file, { force: true })
    }
    const blobs = join(this.repoFolder(repo), "blobs") + sep
    for (const blob of freed) {
      // Links may lead anywhere; only what is the cache's own goes.
      if (!used.has(blob) && blob.startsWith(blobs)) rmSync(blob, { force: true })
    }
    removeEmptyFolders(snapshots)
  }
}

/** Of the file, behind links; undefined where there is none, or none that can be looked at. */
export const sizeOf = (path: string): number | undefined => {
  try {
    const stats = statSync(path)
    return stats.isFile() ? stats.size : undefined
  } catch {
    return undefined
  }
}

/** Names that downloads give what is not whole yet: ours, llama.cpp's, Hugging Face's. */
const PARTIAL = /\.(part|part\.json|downloadInProgress|incomplete)$/

const namesIn = (folder: string, recursive = false): string[] => {
  try {
    return readdirSync(folder, { recursive, encoding: "utf8" })
  } catch {
    return []
  }
}

/** Of `commit/path`. */
const pathInSnapshot = (name: string): string => name.split(sep).slice(1).join("/")

const removeEmptyFolders = (folder: string): void => {
  for (const name of namesIn(folder)) {
    const path = join(folder, name)
    if (lstatSync(path, { throwIfNoEntry: false })?.isDirectory()) removeEmptyFolders(path)
  }
  try {
    rmdirSync(folder)
  } catch {
    // It holds something, or is gone.
  }
}
