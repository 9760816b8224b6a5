/** Downloads one file: several ranges at a time, from where an earlier attempt ended, checked while it comes. */
import { mkdirSync, statfsSync } from "node:fs"
import { dirname } from "node:path"
import { type Digest, type Hasher, newHasher } from "./Checksum.ts"
import {
  BadAnswerError,
  ChecksumError,
  DiskFullError,
  ModelFolderError,
  UnreachableError,
} from "./errors.ts"
import {
  type Asker,
  displayUrl,
  type Exchange,
  exchange,
  type HttpOptions,
  PassingProblem,
  refusalOf,
  retrying,
} from "./http.ts"
import { Part, type PartShape, writeAll } from "./Part.ts"

export interface DownloadRequest {
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  /** Where the file goes once it is whole; a file that is there is replaced then. */
  readonly path: string
  /** As it was announced; undefined: nobody knows. */
  readonly sizeBytes: number | undefined
  readonly digest: Digest | undefined
  /** The ETag that answers have as long as the file is the same; undefined: not compared. */
  readonly etag?: string | undefined
  readonly asker: Asker
}

export interface DownloadOptions extends HttpOptions {
  /** Requests at a time. Default 4. */
  readonly connections?: number | undefined
  /** Bytes of one request. Default 64 MiB. */
  readonly chunkBytes?: number | undefined
  /** Called as bytes arrive, with how many of the file are there. */
  readonly onProgress?: (doneBytes: number) => void
}

const DEFAULT_CONNECTIONS = 4
const DEFAULT_CHUNK_BYTES = 64 * 1024 * 1024
const HASH_BLOCK_BYTES = 4 * 1024 * 1024

/** Puts the file at `request.path`. Rejects with a `ModelsError`, or the signal's reason; what has come stays then. */
export const download = async (
  request: DownloadRequest,
  options: DownloadOptions,
): Promise<void> => {
  try {
    mkdirSync(dirname(request.path), { recursive: true })
    // Bytes of an earlier process may be damaged, as by a power cut: once more without them.
    const isDone = await attempt(request, options)
    if (!isDone) await attempt(request, options)
  } catch (error) {
    throw systemErrorOf(error, request.path)
  }
}

/** False when the checksum is wrong and older bytes may be why; these are gone then. */
const attempt = async (request: DownloadRequest, options: DownloadOptions): Promise<boolean> => {
  const { path, sizeBytes, digest, etag } = request
  const shape: PartShape = {
    identity: sizeBytes === undefined ? undefined : (digest?.hex ?? etag),
    sizeBytes: sizeBytes ?? 0,
    chunkBytes: options.chunkBytes ?? DEFAULT_CHUNK_BYTES,
  }
  checkRoom(path, shape)
  const part = await Part.open(path, shape).catch((error) => {
    throw diskErrorOf(error, path, sizeBytes ?? 0, 0)
  })
  try {
    const hadBytes = part.doneBytes
    const actual = await new Download(request, options, part).run()
    if (digest === undefined || actual === digest.hex) {
      await part.publish(path)
      return true
    }
    part.discard()
    if (hadBytes > 0) return false
    const { algorithm, hex } = digest
    throw new ChecksumError({
      url: displayUrl(request.url),
      algorithm: algorithm === "sha256" ? "SHA-256" : "Git object id",
      expected: hex,
      actual,
    })
  } catch (error) {
    // Nothing to go on from.
    if (part.doneBytes === 0) part.discard()
    throw diskErrorOf(error, path, (sizeBytes ?? 0) - part.doneBytes, part.doneBytes)
  } finally {
    await part.handle.close()
  }
}

/** A server that answers with the whole file, whatever is asked for. */
class NoRangesError extends Error {}

class Download {
  readonly #request: DownloadRequest
  readonly #options: DownloadOptions
  readonly #part: Part
  /** Ends all requests, when one has failed for good or nobody wants the file any more. */
  readonly #ending = new AbortController()
  /** Set once the server has shown that it knows ranges. */
  readonly #isRanged = Promise.withResolvers<void>()
  #hasRanges = false
  #nextChunk = 0
  #follower: Follower | undefined

  constructor(request: DownloadRequest, options: DownloadOptions, part: Part) {
    this.#request = request
    this.#options = options
    this.#part = part
    this.#isRanged.promise.catch(() => {})
  }

  /** Returns the digest of the file, which is all there then; empty where none is wanted. */
  async run(): Promise<string> {
    const { sizeBytes } = this.#request
    if (sizeBytes === undefined) return this.#takeWhole()
    try {
      return await this.#takeRanges()
    } catch (error) {
      if (!(error instanceof NoRangesError)) throw error
    }
    await this.#part.restart()
    return this.#takeWhole()
  }

  get #http(): HttpOptions {
    const signal = AbortSignal.any([this.#options.signal, this.#ending.signal])
    return { ...this.#options, signal }
  }

  #report(): void {
    this.#options.onProgress?.(this.#part.doneBytes)
  }

  // ---- ranges -----------------------------------------------------------------------------------

  async #takeRanges(): Promise<string> {
    const { digest } = this.#request
    const { connections = DEFAULT_CONNECTIONS } = this.#options
    this.#follower =
      digest === undefined ? undefined : new Follower(this.#part, digest.algorithm, this.#ending)
    this.#report()
    // Waits for the first answer: a server without ranges would send all of the file several times.
    const others = Array.from({ length: connections - 1 }, () =>
      this.#isRanged.promise.then(() => this.#worker()),
    )
    const first = this.#worker().then(() => this.#isRanged.resolve())
    const digesting = this.#follower?.digest() ?? Promise.resolve("")
    const tasks = [first, ...others, digesting]
    for (const task of tasks) {
      task.catch((error) => {
        this.#isRanged.reject(error)
        this.#ending.abort(error)
      })
    }
    await Promise.allSettled(tasks)
    this.#saveJournal()
    if (this.#options.signal.aborted) throw this.#options.signal.reason
    // The first that failed; the others ended because of it.
    if (this.#ending.signal.aborted) throw this.#ending.signal.reason
    return digesting
  }

  /** On a full disk the one before stays, which knows a little less. */
  #saveJournal(): void {
    try {
      this.#part.saveJournal()
    } catch (error) {
      if (codeOf(error) === undefined) throw error
    }
  }

  async #worker(): Promise<void> {
    while (this.#nextChunk < this.#part.chunkCount) {
      const chunk = this.#nextChunk++
      if (this.#part.chunkDone(chunk) < this.#part.chunkSize(chunk)) await this.#takeChunk(chunk)
    }
  }

  #takeChunk(chunk: number): Promise<void> {
    let wholeAnswers = 0
    return retrying(
      this.#http,
      () =>
        this.#requestRest(chunk).catch((error) => {
          if (!(error instanceof NoRangesError)) throw error
          // One that gave ranges before may do so again: to begin anew would lose what is here.
          const mayPass = this.#hasRanges || (this.#part.doneBytes > 0 && ++wholeAnswers <= 2)
          if (!mayPass) throw error
          throw new PassingProblem("the server answered with the whole file, not with a range")
        }),
      (problem) => this.#unreachable(problem),
      () => this.#part.chunkDone(chunk),
    )
  }

  #requestRest(chunk: number): Promise<void> {
    const part = this.#part
    const start = chunk * part.shape.chunkBytes
    const end = start + part.chunkSize(chunk)
    const from = start + part.chunkDone(chunk)
    const { url, headers } = this.#request
    const range = { range: `bytes=${from}-${end - 1}` }
    return exchange(url, { headers: { ...headers, ...range } }, this.#http, async (answer) => {
      this.#checkRange(answer.response, from, end)
      this.#hasRanges = true
      this.#isRanged.resolve()
      for await (const bytes of answer.chunks()) {
        if (part.chunkDone(chunk) + bytes.byteLength > part.chunkSize(chunk)) {
          throw this.#badAnswer(`the server sent more than the bytes ${from}-${end - 1}`)
        }
        await part.append(chunk, bytes)
        this.#follower?.wake()
        this.#report()
      }
      const missing = part.chunkSize(chunk) - part.chunkDone(chunk)
      if (missing > 0) throw new PassingProblem(`the answer ended ${missing} bytes early`)
    })
  }

  /** Holds an answer's head against what was asked for. */
  #checkRange(response: Response, from: number, end: number): void {
    const { sizeBytes } = this.#request
    if (response.status === 200) throw new NoRangesError()
    if (response.status === 416) {
      throw this.#badAnswer(
        `${sizeBytes} bytes were announced, and the server has fewer: it answered 416 to the bytes ${from}-${end - 1}`,
      )
    }
    if (response.status !== 206) throw this.#refusal(response)
    const stated = response.headers.get("content-range") ?? ""
    const [, first, last, total] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/i.exec(stated) ?? []
    if (total !== undefined && total !== "*" && Number(total) !== sizeBytes) {
      throw this.#badAnswer(`${sizeBytes} bytes were announced, and the server has ${total}`)
    }
    if (Number(first) !== from || Number(last) !== end - 1) {
      throw this.#badAnswer(
        `the server answered with Content-Range '${stated}' to the bytes ${from}-${end - 1}`,
      )
    }
    this.#checkSame(response)
  }

  // ---- in one piece -----------------------------------------------------------------------------

  /** From a server without ranges, or of a file whose size nobody knows; a break begins anew. */
  #takeWhole(): Promise<string> {
    return retrying(
      { ...this.#options },
      () => this.#requestWhole(),
      (problem) => this.#unreachable(problem),
    )
  }

  #requestWhole(): Promise<string> {
    const { url, headers, digest, sizeBytes } = this.#request
    const { handle } = this.#part
    return exchange(url, { headers }, this.#options, async ({ response, chunks }: Exchange) => {
      if (response.status !== 200) throw this.#refusal(response)
      this.#checkSame(response)
      const stated = response.headers.get("content-length")
      const wantedBytes = stated === null ? sizeBytes : Number(stated)
      if (sizeBytes !== undefined && wantedBytes !== sizeBytes) {
        throw this.#badAnswer(`${sizeBytes} bytes were announced, and the server has ${stated}`)
      }
      await handle.truncate(0)
      // Git's header has the size in front; without one there is no such digest either.
      const hasher = digest && newHasher(digest.algorithm, sizeBytes ?? 0)
      let doneBytes = 0
      for await (const bytes of chunks()) {
        if (wantedBytes !== undefined && doneBytes + bytes.byteLength > wantedBytes) {
          throw this.#badAnswer(`the server sent more than the ${wantedBytes} bytes that it has`)
        }
        await writeAll(handle, bytes, doneBytes)
        hasher?.update(bytes)
        doneBytes += bytes.byteLength
        this.#options.onProgress?.(doneBytes)
      }
      if (wantedBytes !== undefined && doneBytes < wantedBytes) {
        throw new PassingProblem(`the answer ended ${wantedBytes - doneBytes} bytes early`)
      }
      return hasher?.digest("hex") ?? ""
    })
  }

  // ---- what goes wrong --------------------------------------------------------------------------

  #checkSame({ headers }: Response): void {
    const { etag } = this.#request
    const encoding = headers.get("content-encoding") ?? "identity"
    if (encoding !== "identity") throw this.#badAnswer(`its bytes come in the encoding ${encoding}`)
    const found = headers.get("etag")
    if (etag !== undefined && found !== null && found !== etag) {
      throw this.#badAnswer("it changed while it was downloaded; run this again")
    }
  }

  #refusal(response: Response): Error {
    return refusalOf(this.#request.url, response, this.#request.asker)
  }

  #badAnswer(problem: string): BadAnswerError {
    return new BadAnswerError({ url: displayUrl(this.#request.url), problem })
  }

  #unreachable(problem: string): UnreachableError {
    return new UnreachableError({
      url: displayUrl(this.#request.url),
      problem,
      keptBytes: this.#part.doneBytes,
    })
  }
}

/** Digests a file while it comes: as far as it is there without a gap, read back from the system's cache. */
class Follower {
  readonly #part: Part
  readonly #hasher: Hasher
  readonly #ending: AbortController
  #wake = Promise.withResolvers<void>()

  constructor(part: Part, algorithm: Digest["algorithm"], ending: AbortController) {
    this.#part = part
    this.#hasher = newHasher(algorithm, part.shape.sizeBytes)
    this.#ending = ending
    ending.signal.addEventListener("abort", () => this.wake(), { once: true })
  }

  /** More bytes may be there. */
  wake(): void {
    this.#wake.resolve()
  }

  /** Resolves once all of the file is there; rejects when the download ends before. */
  async digest(): Promise<string> {
    const { handle, shape } = this.#part
    const block = new Uint8Array(Math.min(HASH_BLOCK_BYTES, Math.max(1, shape.sizeBytes)))
    for (let at = 0; at < shape.sizeBytes; ) {
      this.#ending.signal.throwIfAborted()
      const readable = Math.min(block.byteLength, this.#part.leadingBytes - at)
      if (readable === 0) {
        await this.#wake.promise
        this.#wake = Promise.withResolvers()
        continue
      }
      const { bytesRead } = await handle.read(block, 0, readable, at)
      if (bytesRead === 0) throw new Error(`${this.#part.path} was cut short while it was read`)
      this.#hasher.update(block.subarray(0, bytesRead))
      at += bytesRead
    }
    return this.#hasher.digest("hex")
  }
}

// ---- the disk -------------------------------------------------------------------------------------

const freeBytesOf = (folder: string): number => {
  const { bavail, bsize } = statfsSync(folder)
  return bavail * bsize
}

/** Before the first byte: an hour later is too late. */
const checkRoom = (path: string, shape: PartShape): void => {
  const folder = dirname(path)
  const keptBytes = Part.keptBytes(path, shape)
  const neededBytes = shape.sizeBytes - keptBytes
  const freeBytes = freeBytesOf(folder)
  if (neededBytes > freeBytes) {
    throw new DiskFullError({ folder, neededBytes, freeBytes, keptBytes })
  }
}

const codeOf = (error: unknown): string | undefined =>
  error instanceof Error && "code" in error && typeof error.code === "string"
    ? error.code
    : undefined

const FULL = ["ENOSPC", "EDQUOT", "EFBIG"]

const diskErrorOf = (
  error: unknown,
  path: string,
  neededBytes: number,
  keptBytes: number,
): unknown => {
  const code = codeOf(error)
  if (code === undefined || !FULL.includes(code)) return error
  const folder = dirname(path)
  return new DiskFullError({ folder, neededBytes, freeBytes: freeBytesOf(folder), keptBytes })
}

/** What the file system says, as an error to be read; anything else stays. */
export const systemErrorOf = (error: unknown, path: string): unknown => {
  const code = codeOf(error)
  const isSystem = code !== undefined && error instanceof Error && "syscall" in error
  if (!isSystem) return error
  const reason =
    code === "EACCES" || code === "EPERM"
      ? "no permission"
      : code === "EROFS"
        ? "it is on a disk that can only be read"
        : code === "ENOTDIR" || code === "EEXIST"
          ? "a part of its path is a file"
          : error.message
  return new ModelFolderError({ path: dirname(path), reason })
}
