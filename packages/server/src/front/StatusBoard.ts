import { closeSync, openSync, unlinkSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { MAX_REPORT_BYTES, REPORT_END, type ServerReport } from "../session/ServerReport.ts"

/** Not more often is it written: a burst of clients is one report. */
const INTERVAL_MS = 50

/**
 * Where the front process writes how the server is, for sessions to tell their clients. They get a descriptor that can only be
 * read: what one of them makes of it the others do not see.
 */
export class StatusBoard {
  readonly #descriptor: number
  /** For session processes. */
  readonly readable: number
  readonly #report: () => ServerReport
  #timer: ReturnType<typeof setTimeout> | undefined
  #writtenAt = Number.NEGATIVE_INFINITY

  /** @throws {Error} when there can be no temporary file */
  constructor(report: () => ServerReport) {
    this.#report = report
    const path = join(tmpdir(), `ggml-rpc-status-${process.pid}-${crypto.randomUUID()}`)
    // Not to be opened for writing again, not even by this user.
    this.#descriptor = openSync(path, "wx", 0o400)
    try {
      this.readable = openSync(path, "r")
    } catch (error) {
      closeSync(this.#descriptor)
      throw error
    } finally {
      unlinkSync(path)
    }
  }

  /** Something changes: it is written when that is done, or a moment later when it was just before. */
  update(): void {
    if (this.#timer !== undefined) return
    const waitMs = this.#writtenAt + INTERVAL_MS - performance.now()
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined
        this.#write()
      },
      Math.max(0, waitMs),
    )
    this.#timer.unref()
  }

  #write(): void {
    this.#writtenAt = performance.now()
    const bytes = new TextEncoder().encode(`${JSON.stringify(this.#report())}${REPORT_END}`)
    if (bytes.length > MAX_REPORT_BYTES) return
    try {
      writeSync(this.#descriptor, bytes, 0, bytes.length, 0)
    } catch {
      // A full disk: sessions tell what was, until there is room again.
    }
  }

  close(): void {
    clearTimeout(this.#timer)
    closeSync(this.#descriptor)
    closeSync(this.readable)
  }
}
