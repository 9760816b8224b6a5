/**
 * What a model's weights hash to, remembered from one start to the next: then a server can be asked for them without reading
 * them. A file a model, outside the model's folder, under the name of what the model's files are like now: one that changes is
 * another model. Lines are appended, each whole with a checksum, so that several processes may write one file, and what a crash or a
 * disk damages is a line that is not read. A file that grew too large, by ways of cutting tensors, loses the oldest of them; what others
 * append meanwhile is lost with it, and found out again. Whatever cannot be read or written is as good as not known; nothing here throws.
 */
import { ptr } from "bun:ffi"
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  statSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs"
import { join } from "node:path"
import type { Address } from "../io.ts"
import { userCacheFolder } from "../prebuilt.ts"
import { hashOf } from "./hash.ts"

/** Rows of a weight that one device has, where tensors are cut over several. */
export interface WeightSlice {
  /** Where the first one begins, from the start of the weight. */
  readonly fromBytes: number
  readonly rowCount: number
  /** From the start of one row to that of the next; 0 where there is one alone. */
  readonly strideBytes: number
  /** Of the whole weight. */
  readonly wholeBytes: number
}

/** A weight's place in its model, and its hash by halves. */
export interface WeightHash {
  readonly sizeBytes: number
  /** Which of the model's files it is in, and from which byte on. */
  readonly part: number
  readonly offsetBytes: number
  /** Undefined of a whole weight. */
  readonly slice?: WeightSlice | undefined
  readonly high: number
  readonly low: number
}

/** Files that were not used for the longest time go when there are more. */
const MAX_FILES = 64
/**
 * From a larger file the oldest slices go: it is read at each start, 30 ms a MiB. A model of 1000 weights takes 100 KiB, and a way of
 * cutting them that much again for each device.
 */
const MAX_FILE_BYTES = 8 * 1024 * 1024
/** What is left of it then. */
const KEPT_BYTES = MAX_FILE_BYTES / 2
/** A larger one is not read: it is none of ours. */
const MAX_READ_BYTES = 4 * MAX_FILE_BYTES
/** A file that changed so lately may change again within the precision of its times. */
const SETTLED_MS = 2000

const SUFFIX = ".hashes"
/** Which group of a line says where a slice begins. */
const OF_SLICE = 6
const LINE =
  /^([0-9a-f]{8})([0-9a-f]{8}) (\d+) (\d+) (\d+)(?::(\d+):(\d+):(\d+):(\d+))? (.+) ([0-9a-f]{16})$/

const attempt = <A>(action: () => A): A | undefined => {
  try {
    return action()
  } catch {
    return undefined
  }
}

const hex = (word: number): string => word.toString(16).padStart(8, "0")

/** FNV-1a-64 in 16 hex digits. */
const textHash = (text: string): string => {
  const bytes = new TextEncoder().encode(text)
  const [low, high] = hashOf(ptr(bytes) as Address, bytes.length)
  return hex(high) + hex(low)
}

/**
 * Where they are kept: `GGML_RPC_WEIGHT_HASHES`, which is a folder, or `none` for nowhere; else `weights` in this user's
 * cache.
 */
const folderOf = (): string | undefined => {
  const wanted = process.env.GGML_RPC_WEIGHT_HASHES
  if (wanted === "none") return undefined
  return wanted || join(userCacheFolder(), "weights")
}

/** A file of a model, by its path without links, and all else that changes when it does. */
export interface WeightSource {
  readonly path: string
  readonly state: string
}

/** Of node's `BigIntStats`, which its types alone would know. */
interface FileStats {
  readonly dev: bigint
  readonly ino: bigint
  readonly size: bigint
  readonly mtimeNs: bigint
  readonly ctimeNs: bigint
}

/** All that changes when a file does. */
export const fileState = ({ dev, ino, size, mtimeNs, ctimeNs }: FileStats): string =>
  [dev, ino, size, mtimeNs, ctimeNs].join(" ")

/** The files of a model. */
interface Sources {
  /** None where one of them cannot be read. */
  readonly files: readonly WeightSource[]
  /** Whether what they are like may still change. */
  readonly isUnsettled: boolean
}

const sourcesOf = (paths: readonly string[]): Sources => {
  const oldest = Date.now() - SETTLED_MS
  let isUnsettled = false
  const files = attempt(() =>
    paths.map((path) => {
      const real = realpathSync(path)
      const stats = statSync(real, { bigint: true })
      if (Number(stats.ctimeNs / 1_000_000n) > oldest) isUnsettled = true
      return { path: real, state: fileState(stats) }
    }),
  )
  return { files: files ?? [], isUnsettled }
}

/**
 * What the model of these files is like now, by all of them up to the first that is not there: changes when it may be another one, or readable.
 * Undefined where its first file is not there, or is none that `isWanted`, which is asked with paths without links.
 */
export const modelState = (
  paths: readonly string[],
  isWanted: (real: string) => boolean,
): string | undefined => {
  const states: string[] = []
  attempt(() => {
    for (const path of paths) {
      const real = realpathSync(path)
      if (!isWanted(real)) break
      states.push(fileState(statSync(real, { bigint: true })))
    }
  })
  return states.length === 0 ? undefined : states.join("\n")
}

/** A weight is a line, which such characters in its name would end. */
const UNSEEN = /[\p{Cc}\p{Zl}\p{Zp}]/u

/** Whether what a weight of this name hashes to can be remembered. */
export const isRememberable = (name: string): boolean => name !== "" && !UNSEEN.test(name)

const TITLE = "ggml-rpc weights 1 "

export class WeightHashes {
  readonly #known = new Map<string, WeightHash>()
  readonly #path: string | undefined
  readonly #maxFiles: number
  /** The first line of the file. */
  readonly #title: string

  /** The model's files as they were named, by their part. */
  readonly paths: readonly string[]

  /** What they are; none where nothing is kept. */
  readonly sources: readonly WeightSource[]

  /** Nothing is kept, as a file was changed so lately that it may change again: another time it may. */
  readonly isUnsettled: boolean

  private constructor(
    paths: readonly string[],
    path: string | undefined,
    title: string,
    sources: readonly WeightSource[],
    maxFiles = MAX_FILES,
    isUnsettled = false,
  ) {
    this.paths = paths
    this.isUnsettled = isUnsettled
    this.#maxFiles = maxFiles
    this.#path = path
    this.#title = title
    this.sources = sources
  }

  /**
   * What is known of the model of these files, by their part. `folder` is kept to `maxFiles` models.
   */
  static open(
    paths: readonly string[],
    folder: string | undefined = folderOf(),
    maxFiles: number = MAX_FILES,
  ): WeightHashes {
    if (folder === undefined) return new WeightHashes(paths, undefined, "", [])
    const { files: sources, isUnsettled } = sourcesOf(paths)
    if (sources.length === 0 || isUnsettled) {
      return new WeightHashes(paths, undefined, "", [], maxFiles, isUnsettled)
    }
    const title = TITLE + JSON.stringify(sources)
    const hashes = new WeightHashes(
      paths,
      join(folder, textHash(title) + SUFFIX),
      title,
      sources,
      maxFiles,
    )
    hashes.#read()
    return hashes
  }

  /** What is known of every model whose hashes lie in a folder. */
  static all(folder: string): readonly WeightHashes[] {
    return (attempt(() => readdirSync(folder)) ?? [])
      .filter((name) => name.endsWith(SUFFIX))
      .flatMap((name) => {
        const path = join(folder, name)
        const [title] = textOf(path)?.split("\n", 1) ?? []
        const sources = title === undefined ? undefined : sourcesIn(title)
        if (title === undefined || sources === undefined) return []
        const paths = sources.map((source) => source.path)
        const hashes = new WeightHashes(paths, path, title, sources)
        hashes.#read()
        return [hashes]
      })
  }

  #read(): void {
    const path = this.#path!
    const text = textOf(path)
    const lines = text?.split("\n")
    if (text !== undefined && lines?.[0] === this.#title) {
      const isTooLarge = text.length > MAX_FILE_BYTES
      const kept = isTooLarge ? newestOf(lines) : lines
      for (const line of kept) this.#take(line)
      if (isTooLarge) replace(path, `${kept.join("\n")}\n`)
      return
    }
    // One that is too large, or whose first line was torn, would grow and never be read. Who makes one has not written into it yet.
    attempt(() => {
      if (statSync(path).size > 0) unlinkSync(path)
    })
  }

  #take(line: string): void {
    const found = LINE.exec(line)
    if (found === null) return
    const [, high, low, sizeBytes, part, offsetBytes, ...rest] = found as unknown as string[]
    const [name, check] = rest.splice(-2) as [string, string]
    if (textHash(line.slice(0, -check.length - 1)) !== check) return
    const slice = rest[0] === undefined ? undefined : sliceIn(rest.map(Number))
    this.#known.set(keyOf(name, Number(sizeBytes), slice), {
      sizeBytes: Number(sizeBytes),
      part: Number(part),
      offsetBytes: Number(offsetBytes),
      slice,
      high: Number.parseInt(high!, 16),
      low: Number.parseInt(low!, 16),
    })
  }

  /** Of the weight of this name, or of a slice of it, which has to have this size. */
  find(name: string, sizeBytes: number, slice?: WeightSlice): WeightHash | undefined {
    const found = this.#known.get(keyOf(name, sizeBytes, slice))
    return found?.sizeBytes === sizeBytes ? found : undefined
  }

  /** All that is known: whole weights by their names, and slices, whose `slice` says which, by keys that no weight has as a name. */
  all(): ReadonlyMap<string, WeightHash> {
    return this.#known
  }

  /** A descriptor to append lines to, of whom it is asked; undefined where nothing is kept. */
  openToAppend(): number | undefined {
    const path = this.#path
    if (path === undefined) return undefined
    return attempt(() => {
      const folder = join(path, "..")
      mkdirSync(folder, { recursive: true, mode: 0o700 })
      const descriptor = openSync(path, "a", 0o600)
      if (statSync(path).size === 0) {
        writeSync(descriptor, `${this.#title}\n`)
        dropOldest(folder, this.#maxFiles)
      }
      return descriptor
    })
  }

  /** Remembers more of them. */
  add(found: Iterable<readonly [name: string, hash: WeightHash]>): void {
    let text = ""
    for (const [name, hash] of found) {
      if (!isRememberable(name)) continue
      const { high, low, sizeBytes, slice } = hash
      this.#known.set(keyOf(name, sizeBytes, slice), hash)
      const line = `${hex(high)}${hex(low)} ${sizeBytes} ${labelOf(name, hash)}`
      text += `${line} ${textHash(line)}\n`
    }
    const descriptor = text === "" ? undefined : this.openToAppend()
    if (descriptor === undefined) return
    attempt(() => writeSync(descriptor, text))
    closeSync(descriptor)
  }

  /** Forgets all: it is not true. */
  forget(): void {
    this.#known.clear()
    const path = this.#path
    if (path !== undefined) attempt(() => unlinkSync(path))
  }
}

const textOf = (path: string): string | undefined =>
  attempt(() => (statSync(path).size > MAX_READ_BYTES ? undefined : readFileSync(path, "utf8")))

/** The title, and of the other lines as many as are kept: those of whole weights before those of slices, the last before the first. */
const newestOf = ([title, ...lines]: readonly string[]): readonly string[] => {
  const ofWeights: string[] = []
  const ofSlices: string[] = []
  for (const line of lines.toReversed()) {
    const found = LINE.exec(line)
    if (found !== null) (found[OF_SLICE] === undefined ? ofWeights : ofSlices).push(line)
  }
  const kept: string[] = []
  let leftBytes = KEPT_BYTES
  for (const line of [...ofWeights, ...ofSlices]) {
    leftBytes -= line.length + 1
    if (leftBytes < 0) break
    kept.push(line)
  }
  return [title!, ...kept.reverse()]
}

/** Whole or not at all. */
const replace = (path: string, text: string): void => {
  const draft = `${path}.${process.pid}`
  try {
    writeFileSync(draft, text, { mode: 0o600 })
    renameSync(draft, path)
  } catch {
    attempt(() => unlinkSync(draft))
  }
}

const sourcesIn = (title: string): readonly WeightSource[] | undefined =>
  title.startsWith(TITLE)
    ? attempt(() => {
        const sources = JSON.parse(title.slice(TITLE.length)) as readonly WeightSource[]
        const isRight = sources.every(
          ({ path, state }) => typeof path === "string" && typeof state === "string",
        )
        return isRight ? sources : undefined
      })
    : undefined

const wordsOf = ({ fromBytes, rowCount, strideBytes, wholeBytes }: WeightSlice): string =>
  `:${fromBytes}:${rowCount}:${strideBytes}:${wholeBytes}`

const sliceIn = (words: readonly number[]): WeightSlice => {
  const [fromBytes, rowCount, strideBytes, wholeBytes] = words as [number, number, number, number]
  return { fromBytes, rowCount, strideBytes, wholeBytes }
}

/** A name has no line breaks. Slices of other shares may begin at the same place. */
const keyOf = (name: string, sizeBytes: number, slice: WeightSlice | undefined): string =>
  slice === undefined ? name : `${name}\n${sizeBytes}${wordsOf(slice)}`

/** What a line says of a weight behind its hash and its size. */
export const labelOf = (
  name: string,
  { part, offsetBytes, slice }: Pick<WeightHash, "part" | "offsetBytes" | "slice">,
): string => `${part} ${offsetBytes}${slice === undefined ? "" : wordsOf(slice)} ${name}`

const dropOldest = (folder: string, maxFiles: number): void => {
  const files = (attempt(() => readdirSync(folder)) ?? [])
    .filter((name) => name.endsWith(SUFFIX))
    .flatMap((name) => {
      const path = join(folder, name)
      const usedAtMs = attempt(() => {
        const { atimeMs, mtimeMs } = statSync(path)
        return Math.max(atimeMs, mtimeMs)
      })
      return usedAtMs === undefined ? [] : [{ path, usedAtMs }]
    })
    .sort((a, b) => b.usedAtMs - a.usedAtMs)
  for (const { path } of files.slice(maxFiles)) attempt(() => unlinkSync(path))
}
