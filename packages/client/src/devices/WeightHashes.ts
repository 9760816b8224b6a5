/**
 * What a model's weights hash to, remembered from one start to the next: then a server can be asked for them without reading
 * them. A file a model, outside the model's folder, under the name of what the model's files are like now: one that changes is
 * another model. Lines are appended, each whole with a checksum, so that several processes may write one file, and what a crash or a
 * disk damages is a line that is not read. Whatever cannot be read or written is as good as not known; nothing here throws.
 */
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  statSync,
  unlinkSync,
  writeSync,
} from "node:fs"
import { join } from "node:path"
import { userCacheFolder } from "@ggml-rpc/native/bindings"
import { Fnv1a64 } from "@ggml-rpc/protocol"
import { partPaths } from "./partPaths.ts"

/** A weight's place in its model, and its hash by halves. */
export interface WeightHash {
  readonly sizeBytes: number
  /** Which of the model's files it is in, and from which byte on. */
  readonly part: number
  readonly offsetBytes: number
  readonly high: number
  readonly low: number
}

/** Files that were not used for the longest time go when there are more. */
const MAX_FILES = 64
/** A larger file is not read: it is none of ours. A model of 10,000 weights takes a tenth. */
const MAX_FILE_BYTES = 16 * 1024 * 1024
/** A file that changed so lately may change again within the precision of its times. */
const SETTLED_MS = 2000

const SUFFIX = ".hashes"
const LINE = /^([0-9a-f]{8})([0-9a-f]{8}) (\d+) (\d+) (\d+) (.+) ([0-9a-f]{16})$/

const attempt = <A>(action: () => A): A | undefined => {
  try {
    return action()
  } catch {
    return undefined
  }
}

const hashOf = (text: string): string =>
  new Fnv1a64().update(new TextEncoder().encode(text)).digestHex()

/**
 * Where they are kept: `GGML_RPC_WEIGHT_HASHES`, which is a folder, or `none` for nowhere; else `weights` in this user's
 * cache.
 */
const folderOf = (): string | undefined => {
  const wanted = process.env.GGML_RPC_WEIGHT_HASHES
  if (wanted === "none") return undefined
  return wanted || join(userCacheFolder(), "weights")
}

/** All that changes when one of the model's files does; undefined where that cannot be told yet. */
const identityOf = (path: string): string | undefined =>
  attempt(() => {
    const oldest = Date.now() - SETTLED_MS
    const texts = partPaths(path).map((part) => {
      const real = realpathSync(part)
      const { dev, ino, size, mtimeNs, ctimeNs } = statSync(real, { bigint: true })
      if (Number(ctimeNs / 1_000_000n) > oldest) throw new Error("it may still change")
      return JSON.stringify([real, ...[dev, ino, size, mtimeNs, ctimeNs].map(String)])
    })
    return texts.join(" ")
  })

export class WeightHashes {
  readonly #known = new Map<string, WeightHash>()
  readonly #path: string | undefined
  /** The first line of the file. */
  readonly #title: string

  private constructor(path: string | undefined, title: string) {
    this.#path = path
    this.#title = title
  }

  /** What is known of the model at `path`, of a split one its first file. */
  static open(path: string, folder: string | undefined = folderOf()): WeightHashes {
    const identity = folder === undefined ? undefined : identityOf(path)
    if (folder === undefined || identity === undefined) return new WeightHashes(undefined, "")
    const title = `ggml-rpc weights 1 ${identity}`
    const hashes = new WeightHashes(join(folder, hashOf(title) + SUFFIX), title)
    hashes.#read()
    return hashes
  }

  #read(): void {
    const lines = attempt(() => {
      const { size } = statSync(this.#path!)
      return size > MAX_FILE_BYTES ? undefined : readFileSync(this.#path!, "utf8").split("\n")
    })
    if (lines?.[0] !== this.#title) return
    for (const line of lines) this.#take(line)
  }

  #take(line: string): void {
    const found = LINE.exec(line)
    if (found === null) return
    const [, high, low, sizeBytes, part, offsetBytes, name, check] = found as unknown as string[]
    if (hashOf(line.slice(0, -check!.length - 1)) !== check) return
    this.#known.set(name!, {
      sizeBytes: Number(sizeBytes),
      part: Number(part),
      offsetBytes: Number(offsetBytes),
      high: Number.parseInt(high!, 16),
      low: Number.parseInt(low!, 16),
    })
  }

  /** Of the weight of this name, which has to have this size. */
  find(name: string, sizeBytes: number): WeightHash | undefined {
    const found = this.#known.get(name)
    return found?.sizeBytes === sizeBytes ? found : undefined
  }

  /** All that is known. */
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
        dropOldest(folder)
      }
      return descriptor
    })
  }

  /** Remembers more of them. */
  add(found: Iterable<readonly [name: string, hash: WeightHash]>): void {
    let text = ""
    for (const [name, hash] of found) {
      this.#known.set(name, hash)
      const { high, low, sizeBytes, part, offsetBytes } = hash
      const digits = high.toString(16).padStart(8, "0") + low.toString(16).padStart(8, "0")
      const line = `${digits} ${sizeBytes} ${labelOf(part, offsetBytes, name)}`
      text += `${line} ${hashOf(line)}\n`
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

/** What a line says of a weight behind its hash and its size. */
export const labelOf = (part: number, offsetBytes: number, name: string): string =>
  `${part} ${offsetBytes} ${name}`

const dropOldest = (folder: string): void => {
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
  for (const { path } of files.slice(MAX_FILES)) attempt(() => unlinkSync(path))
}
