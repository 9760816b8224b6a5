/** A real terminal for a program: a tmux of its own, whose keys are typed and whose screen is read. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { waitUntil } from "../peers/process.ts"

export const hasTmux = Bun.which("tmux") !== null

export interface TerminalOptions {
  readonly columns: number
  readonly rows: number
  readonly env: Readonly<Record<string, string>>
}

export class Terminal implements Disposable {
  readonly #folder = mkdtempSync(join(tmpdir(), "ggml-rpc-tmux-"))

  /** Starts a shell line, after whose end the screen stays. */
  constructor(shellLine: string, { columns, rows, env }: TerminalOptions) {
    const variables = Object.entries(env).flatMap(([name, value]) => ["-e", `${name}=${value}`])
    this.#tmux(
      ...["-f", "/dev/null", "new-session", "-d", "-x", String(columns), "-y", String(rows)],
      ...[...variables, `${shellLine}; echo "exit $?"; stty -a; exec cat`],
    )
  }

  /** Types text as it is. */
  type(text: string): void {
    this.#tmux("send-keys", "-l", text)
  }

  /** Presses keys by tmux's names, such as `Enter`, `Up`, `C-c`. */
  press(...keys: ReadonlyArray<string>): void {
    this.#tmux("send-keys", ...keys)
  }

  /** Pastes text as a terminal does it, between marks where the program asked for them. */
  paste(text: string): void {
    this.#tmux("set-buffer", text)
    this.#tmux("paste-buffer", "-p")
  }

  resize(columns: number, rows: number): void {
    this.#tmux("resize-window", "-x", String(columns), "-y", String(rows))
  }

  /** All lines that there were, those that the terminal broke in one. */
  text(): string {
    return this.#tmux("capture-pane", "-p", "-J", "-S", "-").trimEnd()
  }

  /** The lines of the screen, as they are broken there. */
  screen(): ReadonlyArray<string> {
    return this.#tmux("capture-pane", "-p").trimEnd().split("\n")
  }

  /** Colours and all. */
  styled(): string {
    return this.#tmux("capture-pane", "-p", "-e", "-S", "-")
  }

  async waitFor(shown: string | RegExp, timeoutMs = 20_000): Promise<void> {
    const isShown = () =>
      typeof shown === "string" ? this.text().includes(shown) : shown.test(this.text())
    if (!(await waitUntil(isShown, timeoutMs))) {
      throw new Error(`the terminal never showed ${shown}:\n${this.text()}`)
    }
  }

  [Symbol.dispose](): void {
    this.#tmux("kill-server")
    rmSync(this.#folder, { recursive: true, force: true })
  }

  #tmux(...args: ReadonlyArray<string>): string {
    // As somebody's who works there: what the tests themselves are told of colours is not passed on.
    const { NO_COLOR: _, FORCE_COLOR: __, ...environment } = process.env
    const { stdout, stderr, exitCode } = Bun.spawnSync(
      ["tmux", "-u", "-S", join(this.#folder, "socket"), ...args],
      { env: { ...environment, TMUX: "", TERM: "xterm-256color" } },
    )
    if (exitCode !== 0) throw new Error(`tmux ${args.join(" ")}: ${stderr.toString()}`)
    return stdout.toString()
  }
}
