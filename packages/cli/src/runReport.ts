/** What a run tells while it goes on: for people, or as JSON events. */
import type { Cluster, GenerateStats } from "@ggml-rpc/client"
import { noteEvent, noteText, waitEvent, waitLine } from "./newsView.ts"
import {
  formatBreakdown,
  formatPlanTable,
  formatPlanTitle,
  planJson,
  planNotes,
} from "./planView.ts"
import { TransferProgress, uploadSummary } from "./progress.ts"
import { columnsOf, note, print, type Style, stderr, styleOf } from "./terminal.ts"
import { formatCount, formatRate, formatSeconds } from "./units.ts"
import { StreamWrap, wrap } from "./wrap.ts"

export interface RunReport {
  readonly planned: (plan: Cluster.ModelPlan) => void
  readonly progress: (progress: Cluster.LoadProgress) => void
  readonly loaded: (model: Cluster.ClusterModel) => void
  /** Before the text that continues it. */
  readonly prompt: (text: string) => void
  readonly token: (token: Cluster.GeneratedToken) => void
  /** The text that ended the generation, which no token has. */
  readonly stopText: (text: string) => void
  readonly waiting: (wait: Cluster.ServerWait) => void
  /** What makes the model slower than it could be. */
  readonly note: (text: string) => void
  readonly finished: (model: Cluster.ClusterModel, stats: GenerateStats) => void
  /** Puts the terminal in order; harmless after `finished`. */
  readonly close: () => void
}

const serverCountOf = (plan: Cluster.ModelPlan): number =>
  new Set(plan.places.filter((place, index) => place !== "local" && plan.devices[index]!.unitCount))
    .size

const stopReasons: Readonly<Record<GenerateStats["stopReason"], string>> = {
  "end-of-text": "the model ended the text",
  "token-limit": "as many tokens as wanted",
  "context-full": "the context is full",
  "stop-text": "a stop text came up",
  cancelled: "cancelled",
}

const draftLines = ({ draftedCount = 0, acceptedCount = 0 }: GenerateStats) =>
  draftedCount === 0
    ? []
    : [
        `${"speculation".padEnd(12)}${formatCount(draftedCount, "token")} guessed, ${acceptedCount} of them right (${Math.round((100 * acceptedCount) / draftedCount)} %)`,
      ]

/** How long it took. */
const timingLines = (model: Cluster.ClusterModel, stats: GenerateStats): ReadonlyArray<string> => {
  const row = (name: string, tokenCount: number, ms: number): string =>
    `${name.padEnd(12)}${formatCount(tokenCount, "token")} in ${formatSeconds(ms / 1000)}, ${formatRate(tokenCount, ms)}`
  return [
    `${"load".padEnd(12)}${formatSeconds(model.stats.loadMs / 1000)}`,
    row("prompt", stats.promptTokenCount, stats.promptMs),
    `${row("generation", stats.tokenCount, stats.generateMs)} (${stopReasons[stats.stopReason]})`,
    ...draftLines(stats),
  ]
}

export interface TextReportOptions {
  /** Takes everything but the generated text. */
  readonly write: (text: string) => void
  readonly style: Style
  readonly columns: number
  readonly isTerminal: boolean
  /** Whether timings and memory are told at the end; true. */
  readonly hasTimings: boolean
  /** Puts the prompt before the text, as llama-completion does. */
  readonly echoesPrompt: boolean
  /** Breaks the generated text at this many characters; not given, it stays as the model wrote it. */
  readonly textColumns?: number
}

/** Everything but the text goes to stderr, unless `options` say otherwise. */
export const textReport = (options: Partial<TextReportOptions> = {}): RunReport => {
  const {
    write = note,
    style = styleOf(stderr),
    columns = columnsOf(stderr),
    isTerminal = stderr.isTTY,
    hasTimings = true,
    echoesPrompt = false,
    textColumns = Number.POSITIVE_INFINITY,
  } = options
  const line = (text: string): void => write(`${text}\n`)
  const paragraph = (text: string): void => line(wrap(text, columns).join("\n"))
  const table = { columns, heading: style.bold }
  const textWrap = new StreamWrap(textColumns)
  let upload: TransferProgress | undefined
  let isMidLine = false
  const show = (text: string): void => {
    if (text === "") return
    print(textWrap.push(text))
    isMidLine = !text.endsWith("\n")
  }
  const endLine = (): void => {
    if (isMidLine) print("\n")
    isMidLine = false
  }
  const interrupt = (text: string): void => {
    upload?.end()
    endLine()
    paragraph(text)
  }
  return {
    planned: (plan) => {
      paragraph(formatPlanTitle(plan))
      line(formatPlanTable(plan, table))
      for (const note of planNotes(plan, columns)) line(note)
      if (plan.draft === undefined) return
      paragraph(`\nguessing: ${formatPlanTitle(plan.draft)}`)
      line(formatPlanTable(plan.draft, table))
    },
    progress: (progress) => {
      upload ??= new TransferProgress({
        verb: "uploading",
        isTerminal,
        columns,
        write,
        now: () => performance.now(),
      })
      upload.update(progress)
    },
    loaded: (model) => {
      upload?.end()
      paragraph(`${uploadSummary(model.stats, serverCountOf(model.plan))}\n`)
    },
    prompt: (text) => {
      if (echoesPrompt) show(text)
    },
    token: ({ text }) => show(text),
    stopText: show,
    waiting: (wait) => interrupt(waitLine(wait)),
    note: (text) => interrupt(noteText(text)),
    finished: (model, stats) => {
      endLine()
      if (!hasTimings) return
      line("")
      for (const timing of timingLines(model, stats)) paragraph(timing)
      line(`\n${formatBreakdown(model.plan, model.breakdown, table)}`)
      const { plan, draftBreakdown } = model
      if (plan.draft === undefined || draftBreakdown === undefined) return
      line(`\nguessing\n${formatBreakdown(plan.draft, draftBreakdown, table)}`)
    },
    close: () => {
      upload?.end()
      endLine()
    },
  }
}

/** One line of JSON on stdout. */
export const printJson = (value: unknown): void => print(`${JSON.stringify(value)}\n`)

/** Events on stdout, one JSON object a line: plan, load, token, waiting, note, stats. */
export const jsonReport = (): RunReport => ({
  planned: (plan) => printJson({ event: "plan", ...planJson(plan) }),
  progress: (progress) => printJson({ event: "load", isDone: false, ...progress }),
  loaded: ({ stats, contextSize }) =>
    printJson({ event: "load", isDone: true, contextSize, ...stats }),
  prompt: () => {},
  token: ({ id, text }) => printJson({ event: "token", id, text }),
  // Part of the stats.
  stopText: () => {},
  waiting: (wait) => printJson(waitEvent(wait)),
  note: (text) => printJson(noteEvent(text)),
  finished: ({ plan, breakdown, stats }, generated) =>
    printJson({
      event: "stats",
      loadMs: stats.loadMs,
      ...generated,
      breakdown: {
        devices: plan.devices.map((device, index) => ({
          name: device.name,
          place: plan.places[index]!,
          ...breakdown.devices[index]!,
        })),
        host: { name: plan.host.name, place: "local", ...breakdown.host },
      },
    }),
  close: () => {},
})
