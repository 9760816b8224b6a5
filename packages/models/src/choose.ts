/**
 * Which files of a repository are the model. The rules are those of llama.cpp v0.5.0, common/download.cpp
 * (`find_best_model`, `get_gguf_split_info`), so that both take the same ones.
 */
import { type PartName, readPartName, writePartName } from "@ggml-rpc/gguf"

export interface RepoFile {
  /** Inside of the repository, with slashes. */
  readonly path: string
}

/** What a file's name says of it. */
export interface NameParts extends PartName {
  /** The quantization, in capitals; empty when the name ends in none. */
  readonly tag: string
}

/** Undefined for what is no GGUF file. */
export const namePartsOf = (path: string): NameParts | undefined => {
  if (!path.endsWith(".gguf")) return undefined
  const whole = { prefix: path.slice(0, -".gguf".length), index: 0, count: 1 }
  const part = readPartName(path) ?? whole
  const tag = /[-.]([A-Z0-9_]+)$/i.exec(part.prefix)?.[1] ?? ""
  return { ...part, tag: tag.toUpperCase() }
}

/** Words in names of files that go with a model and are none: projectors, drafts and matrices of importance. */
const COMPANIONS = ["mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-"]

/** Whether a name is that of a model, or of a part of one. */
export const isModelPath = (path: string): boolean => {
  const name = path.split("/").at(-1)!
  return name.endsWith(".gguf") && !COMPANIONS.some((word) => name.includes(word))
}

const DEFAULT_TAGS = ["Q4_K_M", "Q8_0"]

/**
 * The model's file, the first where it has several: the one of that tag; without a tag Q4_K_M, else Q8_0, else the
 * first in the repository's order.
 */
export const chooseModel = <F extends RepoFile>(
  files: readonly F[],
  tag?: string,
): F | undefined => {
  const candidates = files.filter(({ path }) => isModelPath(path) && namePartsOf(path)!.index === 0)
  for (const wanted of tag === undefined ? DEFAULT_TAGS : [tag]) {
    const pattern = new RegExp(`${RegExp.escape(wanted)}[.-]`, "i")
    const found = candidates.find(({ path }) => pattern.test(path))
    if (found !== undefined) return found
  }
  return tag === undefined ? candidates[0] : undefined
}

/** All files of the model that `first` belongs to, in order; fewer than its name announces when some are not there. */
export const partsOf = <F extends RepoFile>(files: readonly F[], first: F): readonly F[] => {
  const parts = namePartsOf(first.path)
  if (parts === undefined || parts.count <= 1) return [first]
  return files
    .flatMap((file) => {
      const other = namePartsOf(file.path)
      const isPart = other?.count === parts.count && other.prefix === parts.prefix
      return isPart ? [{ file, index: other.index }] : []
    })
    .sort((a, b) => a.index - b.index)
    .map(({ file }) => file)
}

/** The URLs of all parts, of a URL whose path names one of them; else the URL alone. */
export const partUrlsOf = (url: string): readonly string[] => {
  const [, base = "", rest = ""] = /^([^?#]*)(.*)$/s.exec(url) ?? []
  const parts = namePartsOf(base)
  if (parts === undefined || parts.count <= 1) return [url]
  return Array.from(
    { length: parts.count },
    (_, index) => writePartName({ ...parts, index }) + rest,
  )
}

/** Tags of the models among files, each once, for messages. */
export const tagsOf = (files: readonly RepoFile[]): readonly string[] => [
  ...new Set(
    files
      .filter(({ path }) => isModelPath(path))
      .map(({ path }) => namePartsOf(path)!.tag)
      .filter((tag) => tag !== ""),
  ),
]
