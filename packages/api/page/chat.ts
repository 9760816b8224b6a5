/** The conversation: asks the server, shows what comes, keeps it. */
import { loadMessages, loadSettings, type Message, saveMessages } from "./conversation.ts"
import { byId } from "./dom.ts"
import { withKey } from "./key.ts"
import { MessageView } from "./messageView.ts"
import { ask, type ChatMessage } from "./server.ts"

/** While an answer comes, it is saved no more often. */
const SAVE_INTERVAL_MS = 1000
/** So near to the end, what comes is followed. */
const FOLLOW_PX = 80

const isLastOfRole = (messages: ReadonlyArray<Message>, index: number): boolean =>
  index >= messages.length - 2 &&
  messages.findLastIndex(({ role }) => role === messages[index]!.role) === index

export interface ChatEvents {
  /** An answer begins or ends. */
  readonly onRunning: (isRunning: boolean) => void
  /** The last message is to be written anew. */
  readonly onEdit: (text: string) => void
}

export class Chat {
  readonly #events: ChatEvents
  readonly #list = byId("messages")
  readonly #scroll = byId("scroll")
  readonly #status = byId("status")
  #messages = loadMessages()
  #views: Array<MessageView> = []
  #running: AbortController | undefined
  #frame = 0
  #savedAtMs = 0

  constructor(events: ChatEvents) {
    this.#events = events
    for (const message of this.#messages) this.#addView(message)
    this.#showAll()
    this.#scroll.scrollTop = this.#scroll.scrollHeight
    // What is not running is saved, and another tab may have written since.
    addEventListener("pagehide", () => {
      if (this.isRunning) saveMessages(this.#messages)
    })
  }

  get isRunning(): boolean {
    return this.#running !== undefined
  }

  send(text: string): void {
    this.#add({ role: "user", content: text })
    void this.#answer()
  }

  /** The last message of the user's, and what came of it, become this. */
  sendInstead(text: string): void {
    this.#cut(this.#messages.findLastIndex(({ role }) => role === "user"))
    this.send(text)
  }

  stop(): void {
    this.#running?.abort()
  }

  clear(): void {
    this.stop()
    this.#cut(0)
    saveMessages([])
    this.#showAll()
    this.#status.textContent = "A new chat"
  }

  #regenerate(): void {
    if (this.isRunning) return
    this.#cut(this.#messages.length - 1)
    // The button that was pressed is gone.
    this.#scroll.focus()
    void this.#answer()
  }

  #edit(): void {
    const last = this.#messages.findLast(({ role }) => role === "user")
    if (!this.isRunning && last !== undefined) this.#events.onEdit(last.content)
  }

  async #answer(): Promise<void> {
    const controller = new AbortController()
    this.#running = controller
    this.#events.onRunning(true)
    this.#status.textContent = "The model answers…"
    const sent = this.#conversation()
    // Should the page go away, it was stopped.
    const message: Message = { role: "assistant", content: "", end: "stopped" }
    this.#add(message)
    try {
      await withKey(() => this.#ask(sent, message, controller.signal))
    } catch (error) {
      if (!controller.signal.aborted) {
        delete message.end
        message.error = error instanceof Error ? error.message : String(error)
      }
    }
    this.#finish(message, controller)
  }

  #ask(sent: ReadonlyArray<ChatMessage>, message: Message, signal: AbortSignal): Promise<void> {
    const { temperature } = loadSettings()
    let thinksSinceMs: number | undefined
    return ask(
      sent,
      { temperature: temperature === "" ? undefined : Number(temperature), signal },
      {
        onReasoning: (text) => {
          message.reasoning = (message.reasoning ?? "") + text
          thinksSinceMs ??= performance.now()
          message.reasoningMs = performance.now() - thinksSinceMs
          this.#changed()
        },
        onContent: (text) => {
          message.content += text
          this.#changed()
        },
        onEnd: ({ tokenCount, tokensPerSecond, isCut }) => {
          message.tokenCount = tokenCount
          message.tokensPerSecond = tokensPerSecond
          if (isCut) message.end = "cut"
          else delete message.end
        },
      },
    )
  }

  #finish(message: Message, controller: AbortController): void {
    // A new chat may have begun meanwhile, and its first answer.
    if (this.#running === controller) {
      this.#running = undefined
      this.#events.onRunning(false)
    }
    if (!this.#messages.includes(message)) return
    saveMessages(this.#messages)
    this.#showAll()
    this.#status.textContent =
      message.error ?? (message.end === "stopped" ? "Stopped" : `The model: ${message.content}`)
  }

  /** What the model gets to read: answers that failed are none. */
  #conversation(): ReadonlyArray<ChatMessage> {
    const { system } = loadSettings()
    return [
      ...(system === "" ? [] : [{ role: "system" as const, content: system }]),
      ...this.#messages
        .filter(({ error, content }) => error === undefined && content !== "")
        .map(({ role, content }) => ({ role, content })),
    ]
  }

  #add(message: Message): void {
    this.#messages.push(message)
    this.#addView(message)
    saveMessages(this.#messages)
    this.#showAll()
    this.#scroll.scrollTop = this.#scroll.scrollHeight
  }

  #addView(message: Message): void {
    const view = new MessageView(message, {
      regenerate: () => this.#regenerate(),
      edit: () => this.#edit(),
    })
    this.#views.push(view)
    this.#list.append(view.node)
  }

  #cut(length: number): void {
    for (const { node } of this.#views.splice(length)) node.remove()
    this.#messages = this.#messages.slice(0, length)
  }

  /** With the next frame: tokens can come faster. */
  #changed(): void {
    if (this.#frame !== 0) return
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0
      const { scrollTop, scrollHeight, clientHeight } = this.#scroll
      const isFollowed = scrollHeight - scrollTop - clientHeight < FOLLOW_PX
      this.#views.at(-1)?.update(this.isRunning, true)
      if (isFollowed) this.#scroll.scrollTop = this.#scroll.scrollHeight
      this.#saveNowAndThen()
    })
  }

  #saveNowAndThen(): void {
    const nowMs = performance.now()
    if (nowMs - this.#savedAtMs < SAVE_INTERVAL_MS) return
    this.#savedAtMs = nowMs
    saveMessages(this.#messages)
  }

  #showAll(): void {
    byId("empty").hidden = this.#messages.length > 0
    this.#views.forEach((view, index) => {
      const isRunning = this.isRunning && index === this.#views.length - 1
      view.update(isRunning, !this.isRunning && isLastOfRole(this.#messages, index))
    })
  }
}
