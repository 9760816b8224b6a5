/** Requests that end when nothing comes any more, and what their statuses mean. */
import { setTimeout as sleep } from "node:timers/promises"
import { BadAnswerError, ModelAccessError, ModelNotFoundError, type ModelsError } from "./errors.ts"

export interface HttpOptions {
  readonly signal: AbortSignal
  /** A connection on which nothing comes for so long counts as broken. Default 30 s. */
  readonly timeoutMs?: number | undefined
  /** Wait before the second attempt; it doubles with each further one. Default 500 ms. */
  readonly retryDelayMs?: number | undefined
  /** Attempts in a row that bring nothing, after which it is given up. Default 5. */
  readonly attempts?: number | undefined
}

const DEFAULT_ATTEMPTS = 5
/** For questions with short answers: who has the model already should not wait long for a network that is not there. */
export const QUESTION_ATTEMPTS = 3
const DEFAULT_TIMEOUT_MS = 30_000
const DEFAULT_RETRY_DELAY_MS = 500
/** However long a server asks to wait. */
const MAX_RETRY_DELAY_MS = 60_000
/** Statuses below 500 that pass by themselves: request timeout, too early, too many requests. */
const PASSING_STATUSES = [408, 425, 429]

/** What an attempt met that may be gone at the next one. */
export class PassingProblem extends Error {
  readonly retryAfterMs: number

  constructor(problem: string, retryAfterMs = 0) {
    super(problem)
    this.retryAfterMs = retryAfterMs
  }
}

/** A URL without what may be a secret. */
export const displayUrl = (url: string): string => {
  if (!URL.canParse(url)) return url
  const { origin, pathname } = new URL(url)
  return origin + pathname
}

export interface Exchange {
  readonly response: Response
  /** The body as it comes; throws `PassingProblem` when it breaks. */
  readonly chunks: () => AsyncGenerator<Uint8Array>
}

/**
 * Sends a request and gives its answer to `use`; the connection ends with it.
 *
 * @throws {PassingProblem} when the connection fails; the signal's reason when it is aborted; what `use` throws
 */
export const exchange = async <A>(
  url: string,
  init: {
    readonly method?: string
    readonly headers?: Readonly<Record<string, string>>
    readonly redirect?: "follow" | "manual"
  },
  options: HttpOptions,
  use: (exchange: Exchange) => Promise<A>,
): Promise<A> => {
  const { signal, timeoutMs = DEFAULT_TIMEOUT_MS } = options
  signal.throwIfAborted()
  const ending = new AbortController()
  let isTimedOut = false
  const arm = () =>
    setTimeout(() => {
      isTimedOut = true
      ending.abort()
    }, timeoutMs)
  let timer = arm()
  const touch = () => {
    clearTimeout(timer)
    timer = arm()
  }
  const problemOf = (cause: unknown): unknown => {
    if (signal.aborted) return signal.reason
    return new PassingProblem(
      isTimedOut ? `nothing came for ${timeoutMs / 1000} s` : connectionText(cause),
    )
  }
  try {
    const response = await fetch(url, {
      method: init.method ?? "GET",
      redirect: init.redirect ?? "follow",
      decompress: false,
      // Compressed, the bytes would be others than those that were asked for.
      headers: { "user-agent": "ggml-rpc", ...init.headers, "accept-encoding": "identity" },
      signal: AbortSignal.any([signal, ending.signal]),
    }).catch((cause) => {
      throw problemOf(cause)
    })
    const { body } = response
    async function* chunks(): AsyncGenerator<Uint8Array> {
      const reader = body?.getReader()
      for (;;) {
        touch()
        const next = await reader?.read().catch((cause) => {
          throw problemOf(cause)
        })
        // Waiting for the disk is no silence of the server.
        clearTimeout(timer)
        if (next === undefined || next.done) return
        yield next.value
      }
    }
    return await use({ response, chunks })
  } finally {
    clearTimeout(timer)
    // Ends an answer that was not read to its end: it may be a whole model.
    ending.abort()
  }
}

const connectionText = (cause: unknown): string => {
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : String(cause)
  if (/^(ECONNREFUSED|ConnectionRefused)$/.test(code)) return "nobody answers at that address"
  if (/^(ENOTFOUND|EAI_\w+|DNS\w+|FailedToOpenSocket)$/.test(code)) {
    return "its host cannot be found or reached"
  }
  return `the connection failed (${code})`
}

/**
 * Repeats what throws a `PassingProblem`, until it has done so several times in a row without `progress` going on.
 *
 * @throws what `failed` makes of the last problem, and whatever else `attempt` throws
 */
export const retrying = async <A>(
  options: HttpOptions,
  attempt: () => Promise<A>,
  failed: (problem: string) => Error,
  progress: () => number = () => 0,
): Promise<A> => {
  const { attempts = DEFAULT_ATTEMPTS } = options
  let failures = 0
  for (;;) {
    const before = progress()
    try {
      return await attempt()
    } catch (error) {
      if (!(error instanceof PassingProblem)) throw error
      failures = progress() > before ? 1 : failures + 1
      if (failures >= attempts) {
        throw failed(`${error.message}, ${attempts} times in a row`)
      }
      await pause(options, failures, error.retryAfterMs)
    }
  }
}

const pause = async (
  { signal, retryDelayMs = DEFAULT_RETRY_DELAY_MS }: HttpOptions,
  failures: number,
  retryAfterMs: number,
): Promise<void> => {
  const wanted = Math.max(retryDelayMs * 2 ** (failures - 1), retryAfterMs)
  try {
    await sleep(Math.min(wanted, MAX_RETRY_DELAY_MS), undefined, { signal })
  } catch {
    throw signal.reason
  }
}

/** Who asked for what, for messages. */
export interface Asker {
  /** The model's name or URL. */
  readonly name: string
  readonly page: string
  readonly hasToken: boolean
}

/** What an answer that is none of the wanted ones means: a `PassingProblem`, or an error for the user. */
export const refusalOf = (
  url: string,
  response: Response,
  { name, page, hasToken }: Asker,
): ModelsError | PassingProblem => {
  const { status, headers } = response
  if (status >= 500 || PASSING_STATUSES.includes(status)) {
    const seconds = Number(headers.get("retry-after") ?? 0)
    return new PassingProblem(`the server answered ${status}`, (seconds || 0) * 1000)
  }
  // A signed link of a hub's storage has expired: the hub gives another one.
  const isElsewhere = response.redirected && originOf(response.url) !== originOf(url)
  if (isElsewhere && (status === 400 || status === 401 || status === 403)) {
    return new PassingProblem(`${displayUrl(response.url)} answered ${status}`)
  }
  if (status === 401 || status === 403) {
    const isGated = headers.get("x-error-code") === "GatedRepo"
    return new ModelAccessError({ name, page, status, isGated, hasToken })
  }
  if (status === 404 || status === 410) {
    return new ModelNotFoundError({ name, detail: missingText(url, name, status, headers) })
  }
  return new BadAnswerError({ url: displayUrl(url), problem: `the server answered ${status}` })
}

const missingText = (url: string, name: string, status: number, headers: Headers): string => {
  switch (headers.get("x-error-code")) {
    case "RepoNotFound":
      return `${originOf(url)} has no such repository`
    case "EntryNotFound":
      return `the repository has no file ${displayUrl(url)} any more`
    default:
      return displayUrl(url) === name
        ? `its server answered ${status}`
        : `the server answered ${status} for ${displayUrl(url)}`
  }
}

/** Redirects that lead from one to the next without an end. */
export const endlessRedirect = (url: string): BadAnswerError =>
  new BadAnswerError({ url: displayUrl(url), problem: "its redirects do not end" })

export const originOf = (url: string): string => (URL.canParse(url) ? new URL(url).origin : "")
