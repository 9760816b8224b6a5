/** Lines that were sent, for the arrow keys of the next chat as well. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { homedir } from "node:os"
import { dirname, join } from "node:path"

const MAX_LINES = 1000

/** `$XDG_STATE_HOME/ggml-rpc/chat_history`. */
export const historyPath = (environment = process.env): string =>
  join(environment.XDG_STATE_HOME || join(homedir(), ".local", "state"), "ggml-rpc", "chat_history")

/** A file that cannot be read or written costs the history, and nothing else. */
export class History {
  readonly #path: string
  /** The newest first, as node:readline has them. */
  #lines: ReadonlyArray<string>

  constructor(path: string) {
    this.#path = path
    this.#lines = linesOf(path)
  }

  get lines(): ReadonlyArray<string> {
    return this.#lines
  }

  add(line: string): void {
    if (line.trim() === "" || line === this.#lines[0]) return
    this.#lines = [line, ...this.#lines].slice(0, MAX_LINES)
    try {
      mkdirSync(dirname(this.#path), { recursive: true, mode: 0o700 })
      // Others must not read what was said.
      writeFileSync(this.#path, `${this.#lines.toReversed().join("\n")}\n`, { mode: 0o600 })
    } catch {
      // It is there for this chat at least.
    }
  }
}

const linesOf = (path: string): ReadonlyArray<string> => {
  try {
    return readFileSync(path, "utf8").split("\n").filter(Boolean).toReversed()
  } catch {
    return []
  }
}
