/** The conversation and the settings, kept in this browser. */

export interface Message {
  readonly role: "user" | "assistant"
  content: string
  /** The model's thoughts before its answer. */
  reasoning?: string
  /** How long they took. */
  reasoningMs?: number
  /** Of the answer, thoughts included. */
  tokenCount?: number
  tokensPerSecond?: number
  /** It ended before the model ended it. */
  end?: "stopped" | "cut"
  /** Why there is no answer, or no whole one. */
  error?: string
}

export interface Settings {
  readonly system: string
  /** As it was typed; "": the server's. */
  readonly temperature: string
}

const MESSAGES = "ggml-rpc.messages"
const SETTINGS = "ggml-rpc.settings"

const read = <T>(name: string, fallback: T): T => {
  try {
    return (JSON.parse(localStorage.getItem(name) ?? "null") as T | null) ?? fallback
  } catch {
    // Somebody else has written there.
    return fallback
  }
}

const write = (name: string, value: unknown): void => {
  try {
    localStorage.setItem(name, JSON.stringify(value))
  } catch {
    // It is full, or not allowed: the conversation lives as long as the page.
  }
}

export const loadMessages = (): Array<Message> => read<Array<Message>>(MESSAGES, [])
export const saveMessages = (messages: ReadonlyArray<Message>): void => write(MESSAGES, messages)

export const loadSettings = (): Settings =>
  read<Settings>(SETTINGS, { system: "", temperature: "" })
export const saveSettings = (settings: Settings): void => write(SETTINGS, settings)
