/** Shows an answer as it comes: thoughts dimmed, and then the answer. */
import type { OutputDelta } from "@ggml-rpc/chat"
import type { GenerateStats } from "@ggml-rpc/client"
import type { Style } from "../terminal.ts"
import { formatCount, formatRate } from "../units.ts"

export interface AnswerViewOptions {
  /** Takes the answer. */
  readonly print: (text: string) => void
  /** Takes everything else. */
  readonly note: (text: string) => void
  readonly style: Style
  /** Whether `print` and `note` write to one terminal, where thoughts and answer need space between them. */
  readonly isShared: boolean
}

export class AnswerView {
  readonly #options: AnswerViewOptions
  #shown: "nothing" | "thoughts" | "answer" = "nothing"
  #isMidLine = false

  constructor(options: AnswerViewOptions) {
    this.#options = options
  }

  /** Thoughts and content alone: a chat has no tools. */
  push(deltas: ReadonlyArray<OutputDelta>): void {
    for (const delta of deltas) {
      if (delta.type === "reasoning") this.#thought(delta.text)
      else if (delta.type === "content") this.#content(delta.text)
    }
  }

  /** Ends the last line. */
  end(): void {
    if (!this.#isMidLine) return
    if (this.#shown === "answer") this.#options.print("\n")
    else this.#options.note("\n")
    this.#isMidLine = false
  }

  #thought(text: string): void {
    const { note, style } = this.#options
    const shown = printable(text)
    // Without colours, words say it.
    const hasColours = style.dim("x") !== "x"
    if (this.#shown !== "thoughts" && !hasColours) note("[thinking]\n")
    note(style.dim(shown))
    this.#shown = "thoughts"
    this.#isMidLine = !shown.endsWith("\n")
  }

  #content(text: string): void {
    const shown = printable(text)
    if (this.#shown === "thoughts") {
      const { note, style, isShared } = this.#options
      const hasColours = style.dim("x") !== "x"
      this.end()
      if (!hasColours) note("[answer]\n")
      else if (isShared) note("\n")
    }
    this.#options.print(shown)
    this.#shown = "answer"
    this.#isMidLine = !shown.endsWith("\n")
  }
}

/** A model's text must not steer the terminal. */
const printable = (text: string): string =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the ones.
  text.replace(/[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]/g, "\ufffd")

const stopNotes: Partial<Readonly<Record<GenerateStats["stopReason"], string>>> = {
  "token-limit": "stopped after as many tokens as wanted",
  "context-full": "the context is full: /clear begins anew",
  cancelled: "stopped",
}

/** One quiet line about an answer. */
export const statsLine = (stats: GenerateStats, contextSize: number): string => {
  const { promptTokenCount, tokenCount, generateMs, stopReason } = stats
  const used = promptTokenCount + tokenCount
  const parts = [
    `${formatCount(tokenCount, "token")}, ${formatRate(tokenCount, generateMs)}`,
    `context ${used} of ${contextSize}`,
    stopNotes[stopReason],
  ]
  return parts.filter((part) => part !== undefined).join(" · ")
}
