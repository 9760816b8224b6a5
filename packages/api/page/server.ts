/** The server that this page comes from. */
import type { ClusterReport } from "../src/own/clusterReport.ts"
import { readEvents } from "./events.ts"

/** The server's own words for what it did not do. */
export class RequestError extends Error {
  override readonly name = "RequestError"
  readonly status: number

  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant"
  readonly content: string
}

export interface AskOptions {
  /** Undefined: the server's. */
  readonly temperature: number | undefined
  readonly signal: AbortSignal
}

/** What comes of an answer. */
export interface AnswerEvents {
  readonly onReasoning: (text: string) => void
  readonly onContent: (text: string) => void
  /** Once, at the end. */
  readonly onEnd: (end: AnswerEnd) => void
}

export interface AnswerEnd {
  /** Thoughts included. */
  readonly tokenCount: number
  readonly tokensPerSecond: number
  /** It was cut off for its length. */
  readonly isCut: boolean
}

interface Chunk {
  readonly choices?: ReadonlyArray<{
    readonly delta: { readonly content?: string | null; readonly reasoning_content?: string }
    readonly finish_reason?: string | null
  }>
  /** As llama-server tells them, with the reason why it finished. */
  readonly timings?: { readonly predicted_n: number; readonly predicted_per_second: number }
  readonly error?: { readonly code?: number | string; readonly message: string }
}

/** In the middle of a long batch, it takes its time. */
const REPORT_TIMEOUT_MS = 30_000

const KEY = "ggml-rpc.key"

export const setKey = (key: string): void => sessionStorage.setItem(KEY, key)

const request = async (path: string, init: RequestInit): Promise<Response> => {
  const key = sessionStorage.getItem(KEY)
  const headers = {
    "content-type": "application/json",
    ...(key === null ? {} : { authorization: `Bearer ${key}` }),
  }
  let response: Response
  try {
    response = await fetch(path, { ...init, headers })
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error
    throw new RequestError(0, "The server does not answer: it may have ended, or hang.")
  }
  if (response.ok) return response
  throw new RequestError(response.status, await messageOf(response))
}

const messageOf = async (response: Response): Promise<string> => {
  try {
    const { error } = (await response.json()) as Chunk
    if (error !== undefined) return error.message
  } catch {
    // Something else than this server has answered.
  }
  return `The server answered with status ${response.status}.`
}

export const clusterReport = async (): Promise<ClusterReport> => {
  const signal = AbortSignal.timeout(REPORT_TIMEOUT_MS)
  return (await (await request("cluster", { signal })).json()) as ClusterReport
}

const broken = (): RequestError =>
  new RequestError(0, "The connection broke in the middle of the answer.")

/**
 * Asks for the next message of a chat, and calls back as it comes.
 *
 * @throws {RequestError}; what `signal` aborted with
 */
export const ask = async (
  messages: ReadonlyArray<ChatMessage>,
  { temperature, signal }: AskOptions,
  { onReasoning, onContent, onEnd }: AnswerEvents,
): Promise<void> => {
  const body = JSON.stringify({
    messages,
    stream: true,
    ...(temperature === undefined ? {} : { temperature }),
  })
  const response = await request("v1/chat/completions", { method: "POST", body, signal })
  let end: AnswerEnd = { tokenCount: 0, tokensPerSecond: 0, isCut: false }
  let isWhole = false
  await readEvents(response.body!, (data) => {
    if (data === "[DONE]") {
      isWhole = true
      return
    }
    const { choices, timings, error } = JSON.parse(data) as Chunk
    if (error !== undefined) throw new RequestError(500, error.message)
    const choice = choices?.[0]
    if (choice?.delta.reasoning_content) onReasoning(choice.delta.reasoning_content)
    if (choice?.delta.content) onContent(choice.delta.content)
    if (timings === undefined) return
    end = {
      tokenCount: timings.predicted_n,
      tokensPerSecond: timings.predicted_per_second,
      isCut: choice?.finish_reason === "length",
    }
  }).catch((error) => {
    // What browsers say of a connection.
    throw error instanceof TypeError ? broken() : error
  })
  if (!isWhole) throw broken()
  onEnd(end)
}
