import { GgufError, type GgufErrorReason } from "./GgufError.ts"
import { causeText, displayName } from "./Source.ts"

export interface HttpOptions {
  /** Sent with every request, such as `{ authorization: "Bearer …" }` for a model that is not public. */
  readonly headers?: Readonly<Record<string, string>>
  /** Ends the reading, which rejects with the signal's reason. */
  readonly signal?: AbortSignal
  /** A connection on which nothing comes for so long counts as broken. Default 30 s. */
  readonly timeoutMs?: number
  /** Wait before the second attempt; it doubles with each further one. Default 250 ms. */
  readonly retryDelayMs?: number
}

const DEFAULT_TIMEOUT_MS = 30_000
const DEFAULT_RETRY_DELAY_MS = 250
/** For one range; each goes on where the one before broke off. */
const MAX_ATTEMPTS = 4
/** Statuses below 500 that pass by themselves: request timeout, too early, too many requests. */
const PASSING_STATUSES = [408, 425, 429]

/** Bytes that were asked for, and how many of them are here. */
interface Range {
  readonly offsetBytes: number
  /** As long as the range; shorter once the file's size shows that it ends before. */
  bytes: Uint8Array
  doneBytes: number
}

/** Byte ranges of one file on an HTTP server (RFC 9110, section 14), one request after the other. */
export class HttpRanges {
  readonly name: string
  readonly #url: string
  readonly #options: HttpOptions
  #sizeBytes: number | undefined
  #version: string | undefined

  /** Throws `GgufError` for what is no URL. */
  constructor(location: string, options: HttpOptions) {
    this.name = displayName(location)
    this.#options = options
    if (!URL.canParse(location)) throw this.#error("unreadable", "is no URL; check it")
    this.#url = location
  }

  /** Of the whole file, as the first answer told it. */
  get sizeBytes(): number {
    return this.#sizeBytes ?? 0
  }

  /** `sizeBytes` bytes from `offsetBytes` on; fewer only at the end of the file. Rejects with `GgufError`. */
  async fetch(offsetBytes: number, sizeBytes: number): Promise<Uint8Array> {
    const range: Range = { offsetBytes, bytes: new Uint8Array(sizeBytes), doneBytes: 0 }
    for (let attempt = 1; ; attempt++) {
      const problem = await this.#continue(range)
      if (problem === undefined) return range.bytes
      if (attempt === MAX_ATTEMPTS) {
        const at = offsetBytes + range.doneBytes
        throw this.#error(
          "unreachable",
          `cannot be read from byte ${at} on: ${problem}, ${MAX_ATTEMPTS} times in a row; check the network and the server, then try again`,
        )
      }
      await this.#pause(attempt)
    }
  }

  /** Fetches what is missing of a range. Returns what came between, where another attempt may help. */
  async #continue(range: Range): Promise<string | undefined> {
    const { signal } = this.#options
    signal?.throwIfAborted()
    const timeoutMs = this.#options.timeoutMs ?? DEFAULT_TIMEOUT_MS
    const watch = new Watch(timeoutMs, signal)
    try {
      const response = await fetch(this.#url, {
        headers: this.#headers(range),
        signal: watch.signal,
      })
      watch.touch()
      return this.#statusProblem(response, range) ?? (await this.#receive(response, range, watch))
    } catch (cause) {
      if (cause instanceof GgufError) throw cause
      signal?.throwIfAborted()
      return watch.isTimedOut
        ? `nothing came for ${timeoutMs / 1000} s`
        : `the connection failed (${causeText(cause)})`
    } finally {
      // Ends an answer that was not read to its end: it may be a whole model.
      watch.end()
    }
  }

  #headers(range: Range): Headers {
    const headers = new Headers(this.#options.headers)
    const from = range.offsetBytes + range.doneBytes
    headers.set("range", `bytes=${from}-${range.offsetBytes + range.bytes.byteLength - 1}`)
    // Compressed, the bytes would be others than those that were asked for.
    headers.set("accept-encoding", "identity")
    return headers
  }

  /** Looks at an answer's head. Throws where it is final; returns what may pass. */
  #statusProblem(response: Response, range: Range): string | undefined {
    const { status } = response
    if (status === 206) return this.#checkAnswer(response, range)
    if (status >= 500 || PASSING_STATUSES.includes(status)) return `the server answered ${status}`
    if (status === 200) {
      throw this.#error(
        "no-ranges",
        "cannot be read in parts: its server answers with the whole file; download it and give its path, or use a server with byte ranges",
      )
    }
    if (status === 404 || status === 410) {
      throw this.#error("missing", `is not there (the server answered ${status}); check the URL`)
    }
    if (status === 401 || status === 403) {
      throw this.#error(
        "unreadable",
        `may not be read (the server answered ${status}); give a token that its server accepts`,
      )
    }
    if (status === 416) return this.#checkUnsatisfied(response, range)
    throw this.#error("unreadable", `cannot be read: the server answered ${status}; check the URL`)
  }

  /** 416: there is nothing in the range. A file without any bytes is answered like this. */
  #checkUnsatisfied(response: Response, range: Range): undefined {
    const stated = response.headers.get("content-range") ?? ""
    if (range.offsetBytes + range.doneBytes > 0 || !/^bytes \*\/0$/i.test(stated)) {
      throw this.#badAnswer(`416 to bytes ${this.#wanted(range)}`)
    }
    this.#sizeBytes = 0
    range.bytes = range.bytes.subarray(0, 0)
    return undefined
  }

  /** Holds a 206 against what was asked for, and learns the file's size. */
  #checkAnswer(response: Response, range: Range): undefined {
    const stated = response.headers.get("content-range") ?? ""
    const [, first, last, total] = /^bytes (\d+)-(\d+)\/(\d+)$/i.exec(stated) ?? []
    const seen = `Content-Range '${stated}' to bytes ${this.#wanted(range)}`
    if (first === undefined) throw this.#badAnswer(seen)
    const sizeBytes = Number(total)
    const wantedEnd = Math.min(range.offsetBytes + range.bytes.byteLength, sizeBytes)
    const from = range.offsetBytes + range.doneBytes
    const fits = Number(first) === from && Number(last) === wantedEnd - 1 && from < wantedEnd
    if (!fits || !Number.isSafeInteger(sizeBytes)) throw this.#badAnswer(seen)
    this.#checkSameFile(response, sizeBytes)
    range.bytes = range.bytes.subarray(0, wantedEnd - range.offsetBytes)
    const encoding = response.headers.get("content-encoding") ?? "identity"
    if (encoding !== "identity") throw this.#badAnswer(`bytes in the encoding ${encoding}`)
    const length = response.headers.get("content-length")
    if (length !== null && Number(length) !== wantedEnd - from) {
      throw this.#badAnswer(`Content-Length ${length} to bytes ${this.#wanted(range)}`)
    }
    return undefined
  }

  #checkSameFile(response: Response, sizeBytes: number): void {
    const { headers } = response
    const version = headers.get("etag") ?? headers.get("last-modified") ?? undefined
    const isSame =
      (this.#sizeBytes ?? sizeBytes) === sizeBytes && (this.#version ?? version) === version
    if (!isSame) {
      throw this.#error("bad-answer", "changed while it was read; try again")
    }
    this.#sizeBytes = sizeBytes
    this.#version = version
  }

  /** Takes an answer's body. Returns what is wrong when it ends early. */
  async #receive(response: Response, range: Range, watch: Watch): Promise<string | undefined> {
    const { bytes } = range
    if (response.body !== null && range.doneBytes < bytes.byteLength) {
      for await (const chunk of response.body) {
        watch.touch()
        if (range.doneBytes + chunk.byteLength > bytes.byteLength) {
          throw this.#badAnswer(`more than the bytes ${this.#wanted(range)}`)
        }
        bytes.set(chunk, range.doneBytes)
        range.doneBytes += chunk.byteLength
      }
    }
    return range.doneBytes === bytes.byteLength
      ? undefined
      : `the answer ended ${bytes.byteLength - range.doneBytes} bytes early`
  }

  #wanted({ offsetBytes, doneBytes, bytes }: Range): string {
    return `${offsetBytes + doneBytes}-${offsetBytes + bytes.byteLength - 1}`
  }

  async #pause(attempt: number): Promise<void> {
    const { signal, retryDelayMs = DEFAULT_RETRY_DELAY_MS } = this.#options
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, retryDelayMs * 2 ** (attempt - 1))
      const stop = () => {
        clearTimeout(timer)
        resolve()
      }
      signal?.addEventListener("abort", stop, { once: true })
    })
  }

  #badAnswer(seen: string): GgufError {
    return this.#error(
      "bad-answer",
      `cannot be read: its server answered with ${seen}; download the file and give its path, or use another server`,
    )
  }

  #error(reason: GgufErrorReason, problem: string): GgufError {
    return new GgufError({ path: this.name, reason, message: `${this.name} ${problem}` })
  }
}

/** A request's signal: the caller's, and one of a time without progress. */
class Watch {
  readonly #controller = new AbortController()
  readonly #timeoutMs: number
  readonly #outer: AbortSignal | undefined
  #timer: ReturnType<typeof setTimeout> | undefined
  isTimedOut = false

  constructor(timeoutMs: number, outer: AbortSignal | undefined) {
    this.#timeoutMs = timeoutMs
    this.#outer = outer
    outer?.addEventListener("abort", this.#abort)
    this.touch()
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  touch(): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.isTimedOut = true
      this.#abort()
    }, this.#timeoutMs)
  }

  end(): void {
    clearTimeout(this.#timer)
    this.#outer?.removeEventListener("abort", this.#abort)
    this.#abort()
  }

  readonly #abort = (): void => this.#controller.abort()
}
