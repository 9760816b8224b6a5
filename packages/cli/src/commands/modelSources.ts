/** Which models a command is given: files, or names that are found on a hub or by URL, and downloaded. */
import type {
  DownloadProgress,
  LocatedModel,
  ModelOptions,
  ModelSource,
  ModelsError,
} from "@ggml-rpc/models"
import { formatBytes } from "@ggml-rpc/native/bindings"
import * as Effect from "effect/Effect"
import { TransferProgress } from "../progress.ts"
import { printJson } from "../runReport.ts"
import { columnsOf, note, noteLine, stderr } from "../terminal.ts"
import { UsageError } from "../UsageError.ts"
import { formatSeconds } from "../units.ts"
import { wrap } from "../wrap.ts"

/** Flags that name a model by something else than its path. */
export interface NameValues {
  readonly model?: string | undefined
  readonly hfRepo: string | undefined
  readonly hfFile: string | undefined
  readonly modelUrl: string | undefined
  readonly hfToken: string | undefined
  readonly offline: boolean
}

export type GivenModel =
  | { readonly kind: "file"; readonly path: string }
  | { readonly kind: "named"; readonly source: ModelSource; readonly name: string }

/** All models of a command; at least one. */
export const givenModels = (
  values: NameValues & { readonly files: ReadonlyArray<string> },
): Effect.Effect<ReadonlyArray<GivenModel>, UsageError> => {
  const { model, files, hfRepo, hfFile, modelUrl } = values
  if (hfFile !== undefined && hfRepo === undefined) {
    return Effect.fail(new UsageError("-hff names a file of the repository that -hf names"))
  }
  // With a URL, -m says where its file goes.
  const paths = [...(model === undefined || modelUrl !== undefined ? [] : [model]), ...files]
  const given: ReadonlyArray<GivenModel> = [
    ...paths.map((path): GivenModel => ({ kind: "file", path })),
    ...(hfRepo === undefined ? [] : [hubModel(hfRepo, hfFile)]),
    ...(modelUrl === undefined ? [] : [urlModel(modelUrl, model)]),
  ]
  return given.length > 0
    ? Effect.succeed(given)
    : Effect.fail(
        new UsageError("no model is given: name a GGUF file, or one of Hugging Face with -hf"),
      )
}

/** The one model of a command. */
export const givenModel = (
  values: NameValues & { readonly files: ReadonlyArray<string> },
): Effect.Effect<GivenModel, UsageError> =>
  Effect.flatMap(givenModels(values), ([first, second]) =>
    second === undefined
      ? Effect.succeed(first!)
      : Effect.fail(
          new UsageError(
            `two models are given, ${nameOf(first!)} and ${nameOf(second)}; one is needed`,
          ),
        ),
  )

export const hubModel = (name: string, file?: string): GivenModel => ({
  kind: "named",
  source: { kind: "hub", name, file },
  name: file === undefined ? name : `${name.split(":")[0]}/${file}`,
})

export const urlModel = (url: string, path?: string): GivenModel => ({
  kind: "named",
  source: { kind: "url", url, path },
  // Without what may be a secret.
  name: url.replace(/[?#].*$/s, "").replace(/\/\/[^/]*@/, "//"),
})

export const nameOf = (given: GivenModel): string =>
  given.kind === "file" ? given.path : given.name

export interface FetchOptions {
  /** Progress is events on stdout, not a line on the terminal. */
  readonly isJson?: boolean
}

/**
 * The path of a model's first file, after a download where that has to be; `before` runs only then, and ahead of it.
 */
export const modelPath = <E>(
  given: GivenModel,
  values: NameValues,
  options: FetchOptions,
  before: Effect.Effect<void, E>,
) =>
  given.kind === "file"
    ? Effect.succeed(given.path)
    : Effect.gen(function* () {
        const report = downloadReport(options)
        const located = yield* locate(given.source, values, report.progress)
        if (!located.isLocal) yield* before
        return (yield* reported(located.fetch, report)).path
      })

/** A file with the header of a model: itself where it is on the disk, else one until the scope closes. */
export const headerPath = (given: GivenModel, values: NameValues) =>
  given.kind === "file"
    ? Effect.succeed({ path: given.path, isWhole: true })
    : Effect.gen(function* () {
        const located = yield* locate(given.source, values, () => {})
        return { path: yield* located.header, isWhole: located.isLocal }
      })

/** All of a model, and what had to come. */
export const fetchGiven = (
  { source }: GivenModel & { readonly kind: "named" },
  values: NameValues,
  options: FetchOptions,
) =>
  Effect.suspend(() => {
    const report = downloadReport(options)
    return Effect.flatMap(locate(source, values, report.progress), (located) =>
      reported(located.fetch, report),
    )
  })

const locate = (
  source: ModelSource,
  { offline, hfToken }: NameValues,
  onProgress: (progress: DownloadProgress) => void,
): Effect.Effect<LocatedModel, ModelsError> => {
  const options: ModelOptions = {
    offline,
    token: hfToken,
    onProgress,
    onNote: (text) => noteLine(wrap(`note: ${text}`, columnsOf(stderr)).join("\n")),
  }
  // Loaded where a model is not a file.
  return Effect.flatMap(
    Effect.promise(() => import("@ggml-rpc/models")),
    ({ locateModel }) => locateModel(source, options),
  )
}

interface DownloadReport {
  readonly progress: (progress: DownloadProgress) => void
  readonly end: (isInterrupted: boolean) => void
  readonly summary: (downloadedBytes: number) => void
}

const reported = (fetch: LocatedModel["fetch"], report: DownloadReport) =>
  fetch.pipe(
    Effect.onInterrupt(() => Effect.sync(() => report.end(true))),
    Effect.ensuring(Effect.sync(() => report.end(false))),
    Effect.tap(({ downloadedBytes }) => Effect.sync(() => report.summary(downloadedBytes))),
  )

const EVENT_INTERVAL_MS = 500

/** A line that changes on a terminal, events where JSON is wanted, else nothing. */
const downloadReport = ({ isJson = false }: FetchOptions): DownloadReport => {
  const isTerminal = stderr.isTTY
  let line: TransferProgress | undefined
  let startedMs: number | undefined
  let toldMs = Number.NEGATIVE_INFINITY
  let isEnded = false
  return {
    progress: (progress) => {
      const now = performance.now()
      startedMs ??= now
      if (isJson && now - toldMs >= EVENT_INTERVAL_MS) {
        toldMs = now
        printJson({ event: "download", isDone: false, ...progress })
      }
      if (!isTerminal) return
      line ??= new TransferProgress({
        verb: "downloading",
        startBytes: progress.doneBytes,
        isTerminal,
        columns: columnsOf(stderr),
        write: note,
        now: () => performance.now(),
      })
      line.update(progress)
    },
    end: (isInterrupted) => {
      if (isEnded) return
      isEnded = true
      line?.end()
      if (isInterrupted && startedMs !== undefined) {
        noteLine("stopped: what has come stays, and the same command goes on from there")
      }
    },
    summary: (downloadedBytes) => {
      if (startedMs === undefined) return
      const seconds = (performance.now() - startedMs) / 1000
      if (isJson) printJson({ event: "download", isDone: true, downloadedBytes, seconds })
      if (!isTerminal || downloadedBytes === 0) return
      const rate = `${formatBytes(downloadedBytes / seconds)}/s`
      noteLine(`downloaded ${formatBytes(downloadedBytes)} in ${formatSeconds(seconds)} (${rate})`)
    },
  }
}
