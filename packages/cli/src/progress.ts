/** How far a model's bytes are on their way, down or up, on a terminal as one line that changes. */
import { formatBytes } from "@ggml-rpc/native/bindings"
import { formatEta, formatSeconds } from "./units.ts"

/** As `LoadProgress` of the client, and `DownloadProgress` of models. */
export interface Progress {
  readonly doneBytes: number
  readonly cachedBytes?: number
  readonly totalBytes: number
}

export interface ProgressOptions {
  /** What is done, such as `uploading`. */
  readonly verb: string
  /** What was there before; it says nothing of the rate. Default 0. */
  readonly startBytes?: number
  readonly isTerminal: boolean
  /** Characters of the terminal's line. */
  readonly columns: number
  readonly write: (text: string) => void
  /** Milliseconds of a clock that only goes forward. */
  readonly now: () => number
}

/** Without a terminal, a line at most this often. */
const LINE_INTERVAL_MS = 5000
/** On a terminal, a redraw at most this often. */
const REDRAW_INTERVAL_MS = 80
/** The rate is that of the last few seconds: the start says little about the end. */
const RATE_WINDOW_MS = 5000
const BAR_COLUMNS = 20

export class TransferProgress {
  private readonly options: ProgressOptions
  private readonly startedMs: number
  private shownMs: number
  private isDrawn = false
  private samples: Array<{ readonly ms: number; readonly bytes: number }>

  constructor(options: ProgressOptions) {
    this.options = options
    this.startedMs = options.now()
    this.shownMs = options.isTerminal ? Number.NEGATIVE_INFINITY : this.startedMs
    this.samples = [{ ms: this.startedMs, bytes: options.startBytes ?? 0 }]
  }

  update(progress: Progress): void {
    const { isTerminal, write, now } = this.options
    const ms = now()
    this.samples.push({ ms, bytes: progress.doneBytes })
    while (this.samples.length > 2 && this.samples[1]!.ms < ms - RATE_WINDOW_MS)
      this.samples.shift()
    if (ms - this.shownMs < (isTerminal ? REDRAW_INTERVAL_MS : LINE_INTERVAL_MS)) return
    this.shownMs = ms
    write(isTerminal ? `\r${this.bar(progress)}\x1b[K` : `${this.text(progress)}\n`)
    this.isDrawn = isTerminal
  }

  /** Takes the line away; whatever comes next stands in its place. */
  end(): void {
    if (this.isDrawn) this.options.write("\r\x1b[K")
    this.isDrawn = false
  }

  private bar(progress: Progress): string {
    const text = this.text(progress)
    const fraction = fractionOf(progress)
    const filled = Math.round(fraction * BAR_COLUMNS)
    const bar = `${"█".repeat(filled)}${"░".repeat(BAR_COLUMNS - filled)} ${text}`
    // The last column stays empty: some terminals wrap when it is written.
    const columns = this.options.columns - 1
    return bar.length <= columns ? bar : text.slice(0, columns)
  }

  private text(progress: Progress): string {
    const { doneBytes, cachedBytes = 0, totalBytes } = progress
    const first = this.samples[0]!
    const last = this.samples[this.samples.length - 1]!
    const rate = last.ms > first.ms ? ((last.bytes - first.bytes) * 1000) / (last.ms - first.ms) : 0
    return [
      `${this.options.verb} ${Math.floor(fractionOf(progress) * 100)}%`,
      `${formatBytes(doneBytes)} of ${formatBytes(Math.max(totalBytes, doneBytes))}`,
      ...(cachedBytes > 0 ? [`${formatBytes(cachedBytes)} cached`] : []),
      ...(rate > 0
        ? [`${formatBytes(rate)}/s`, `ETA ${formatEta(Math.max(0, totalBytes - doneBytes) / rate)}`]
        : []),
    ].join(", ")
  }
}

const fractionOf = ({ doneBytes, totalBytes }: Progress): number =>
  totalBytes > 0 ? Math.min(1, doneBytes / totalBytes) : 1

/** What the upload came to, in one line. */
export const uploadSummary = (
  stats: {
    readonly loadMs: number
    readonly remoteWeightBytes: number
    readonly cachedWeightBytes: number
  },
  serverCount: number,
): string => {
  const seconds = stats.loadMs / 1000
  if (stats.remoteWeightBytes === 0) return `loaded in ${formatSeconds(seconds)}`
  const sent = stats.remoteWeightBytes - stats.cachedWeightBytes
  const rate = seconds > 0 ? ` (${formatBytes(stats.remoteWeightBytes / seconds)}/s)` : ""
  const cached =
    stats.cachedWeightBytes > 0
      ? `, ${formatBytes(stats.cachedWeightBytes)} were in ${serverCount === 1 ? "its" : "their"} cache`
      : ""
  return `loaded in ${formatSeconds(seconds)}${rate}: ${formatBytes(sent)} sent to ${serverCount === 1 ? "one server" : `${serverCount} servers`}${cached}`
}
