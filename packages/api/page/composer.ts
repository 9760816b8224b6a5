/** Where messages are written. */
import type { Chat } from "./chat.ts"
import { byId } from "./dom.ts"

export class Composer {
  readonly #chat: () => Chat
  readonly #text = byId<HTMLTextAreaElement>("text")
  readonly #send = byId<HTMLButtonElement>("send")
  readonly #editing = byId("editing")

  constructor(chat: () => Chat) {
    this.#chat = chat
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault()
      this.#submit()
    })
    this.#text.addEventListener("input", () => this.#fit())
    this.#text.addEventListener("keydown", (event) => {
      // Enter also ends the choice of a character, in Japanese for one.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return
      event.preventDefault()
      if (!this.#chat().isRunning) this.#submit()
    })
    document.addEventListener("keydown", (event) => {
      if (
        event.key !== "Escape" ||
        event.isComposing ||
        document.querySelector("dialog[open]") !== null
      )
        return
      if (this.#chat().isRunning) this.#chat().stop()
      else if (!this.#editing.hidden) this.reset()
    })
    byId("cancel-edit").addEventListener("click", () => this.reset())
  }

  setRunning(isRunning: boolean): void {
    this.#send.textContent = isRunning ? "Stop" : "Send"
    this.#send.classList.toggle("stop", isRunning)
  }

  edit(text: string): void {
    this.#editing.hidden = false
    this.#set(text)
  }

  /** Empty, and at hand. */
  reset(): void {
    this.#editing.hidden = true
    this.#set("")
  }

  #submit(): void {
    const chat = this.#chat()
    if (chat.isRunning) {
      chat.stop()
      return
    }
    const text = this.#text.value.trim()
    if (text === "") return
    const isEdit = !this.#editing.hidden
    this.reset()
    if (isEdit) chat.sendInstead(text)
    else chat.send(text)
  }

  #set(text: string): void {
    this.#text.value = text
    this.#fit()
    this.#text.focus()
  }

  /** As high as what is written; the style has a limit. */
  #fit(): void {
    this.#text.style.height = "auto"
    this.#text.style.height = `${this.#text.scrollHeight}px`
  }
}
