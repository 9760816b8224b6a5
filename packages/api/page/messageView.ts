/** One message of the conversation. */
import type { Message } from "./conversation.ts"
import { copyButton } from "./copy.ts"
import { element } from "./dom.ts"
import { formatCount, formatRate, formatSeconds } from "./format.ts"
import { MarkdownView } from "./markdownView.ts"

export interface MessageActions {
  readonly regenerate: () => void
  readonly edit: () => void
}

const button = (text: string, act: () => void): HTMLElement =>
  element("button", { type: "button", class: "quiet small", click: act }, text)

/** `12 tokens, 34.5 tokens/s`, and how it ended where it did not end by itself. */
const describe = ({ tokenCount, tokensPerSecond, end }: Message): string =>
  [
    ...(tokenCount === undefined ? [] : [formatCount(tokenCount, "token")]),
    ...(tokensPerSecond === undefined ? [] : [`${formatRate(tokensPerSecond)} tokens/s`]),
    ...(end === "stopped" ? ["stopped"] : end === "cut" ? ["cut off: there was no more room"] : []),
  ].join(", ")

export class MessageView {
  readonly node: HTMLLIElement
  readonly #message: Message
  readonly #actions: MessageActions
  readonly #text = new MarkdownView()
  readonly #thoughts = new MarkdownView()
  readonly #summary = element("summary")
  readonly #thinking = element(
    "details",
    { class: "thinking", hidden: true },
    this.#summary,
    this.#thoughts.node,
  )
  readonly #error = element("p", { class: "error", hidden: true })
  readonly #foot = element("div", { class: "foot" })
  #footState = ""

  constructor(message: Message, actions: MessageActions) {
    this.#message = message
    this.#actions = actions
    const isUser = message.role === "user"
    this.node = element(
      "li",
      { class: `message ${message.role}` },
      element("h3", { class: "hidden" }, isUser ? "You" : "The model"),
      isUser ? undefined : this.#thinking,
      // What a user types is shown as it is.
      isUser ? element("div", { class: "bubble" }, message.content) : this.#text.node,
      this.#error,
      this.#foot,
    )
  }

  /** Shows the message as it is now. */
  update(isRunning: boolean, isLast: boolean): void {
    const { role, content, reasoning = "", error } = this.#message
    this.node.classList.toggle("running", isRunning)
    if (role === "assistant") this.#text.show(content)
    this.#showThinking(reasoning, isRunning)
    this.#error.hidden = error === undefined
    this.#error.textContent = error ?? ""
    this.#showFoot(isRunning, isLast)
  }

  /** Made anew where it changes alone: one of its buttons may have the focus. */
  #showFoot(isRunning: boolean, isLast: boolean): void {
    const state = isRunning ? "running" : `${isLast} ${describe(this.#message)}`
    if (state === this.#footState) return
    this.#footState = state
    this.#foot.replaceChildren(...(isRunning ? [] : this.#footOf(isLast)))
  }

  #showThinking(reasoning: string, isRunning: boolean): void {
    const { content, reasoningMs } = this.#message
    this.#thinking.hidden = reasoning === ""
    if (reasoning === "") return
    this.#thoughts.show(reasoning)
    this.#summary.textContent =
      isRunning && content === ""
        ? "Thinking…"
        : reasoningMs === undefined
          ? "Thought"
          : `Thought for ${formatSeconds(reasoningMs)}`
  }

  #footOf(isLast: boolean): ReadonlyArray<HTMLElement> {
    const message = this.#message
    const { regenerate, edit } = this.#actions
    const copy = copyButton(
      message.role === "user" ? "Copy your message" : "Copy the answer",
      () => message.content,
    )
    return message.role === "user"
      ? [...(isLast ? [button("Edit", edit)] : []), copy]
      : [
          ...(message.content === "" ? [] : [copy]),
          ...(isLast
            ? [button(message.error === undefined ? "Regenerate" : "Try again", regenerate)]
            : []),
          element("span", { class: "note" }, describe(message)),
        ]
  }
}
