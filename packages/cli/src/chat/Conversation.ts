/** What was said: the messages of a chat, in a file as well. */
import { readFileSync, writeFileSync } from "node:fs"
import type { ChatMessage } from "@ggml-rpc/chat"
import { ConversationFileError } from "../errors.ts"
import { fileReason } from "../fileReason.ts"

export class Conversation {
  /** What the model is told before; undefined: nothing. */
  system: string | undefined
  #turns: ReadonlyArray<ChatMessage> = []

  constructor(system?: string) {
    this.system = system
  }

  get messages(): ReadonlyArray<ChatMessage> {
    const { system } = this
    return system === undefined || system === ""
      ? this.#turns
      : [{ role: "system", content: system }, ...this.#turns]
  }

  ask(content: string): void {
    this.#turns = [...this.#turns, { role: "user", content }]
  }

  answer(content: string, thoughts: string): void {
    const reasoning = thoughts === "" ? {} : { reasoning_content: thoughts }
    this.#turns = [...this.#turns, { role: "assistant", content, ...reasoning }]
  }

  /** Takes the last question back. */
  takeBack(): void {
    if (this.#turns.at(-1)?.role === "user") this.#turns = this.#turns.slice(0, -1)
  }

  /** Forgets the last answer, so that there can be another; whether there is a question for one. */
  dropAnswer(): boolean {
    if (this.#turns.at(-1)?.role === "assistant") this.#turns = this.#turns.slice(0, -1)
    return this.#turns.at(-1)?.role === "user"
  }

  /** Forgets all but the system message. */
  clear(): void {
    this.#turns = []
  }

  /** Writes the messages to a file, as JSON in OpenAI's shape. @throws {ConversationFileError} */
  save(path: string): void {
    try {
      writeFileSync(path, `${JSON.stringify({ messages: this.messages }, undefined, 2)}\n`)
    } catch (error) {
      throw new ConversationFileError({ path, action: "written", reason: fileReason(error) })
    }
  }

  /** Replaces what was said by a file's messages; how many they are. @throws {ConversationFileError} */
  load(path: string): number {
    const [first, ...rest] = readMessages(path)
    const isSystem = first?.role === "system"
    this.system = isSystem ? String(first.content) : undefined
    this.#turns = first === undefined || isSystem ? rest : [first, ...rest]
    return this.messages.length
  }
}

const readMessages = (path: string): ReadonlyArray<ChatMessage> => {
  const fail = (reason: string) => new ConversationFileError({ path, action: "read", reason })
  let saved: unknown
  try {
    saved = JSON.parse(readFileSync(path, "utf8"))
  } catch (error) {
    throw fail(fileReason(error))
  }
  const messages: unknown = Array.isArray(saved)
    ? saved
    : (saved as { readonly messages?: unknown } | null)?.messages
  if (!Array.isArray(messages) || !messages.every(isMessage)) {
    throw fail('it has no "messages" with a role and a content each')
  }
  return messages
}

const isMessage = (value: unknown): value is ChatMessage =>
  typeof value === "object" &&
  value !== null &&
  "role" in value &&
  typeof value.role === "string" &&
  "content" in value &&
  typeof value.content === "string"
