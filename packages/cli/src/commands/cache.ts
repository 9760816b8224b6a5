/** `ggml-rpc cache`: the weights that servers of this machine keep. */
import { formatBytes } from "@ggml-rpc/native"
import {
  type CacheEntry,
  type CacheFolderError,
  cacheFolder,
  isGood,
  listCache,
  pruneCache,
  removeFromCache,
} from "@ggml-rpc/server"
import * as Effect from "effect/Effect"
import { ReportedError } from "../errors.ts"
import type { CommandValues } from "../flags/commands.ts"
import { withJsonErrors } from "../jsonErrors.ts"
import { printJson } from "../runReport.ts"
import { formatTable } from "../table.ts"
import { columnsOf, noteLine, printLine, stdout, styleOf } from "../terminal.ts"
import { UsageError } from "../UsageError.ts"
import { formatCount } from "../units.ts"

type CacheValues = CommandValues<"cache">

export const cache = (values: CacheValues) =>
  withJsonErrors(
    Effect.suspend((): Effect.Effect<void, CacheFolderError | ReportedError | UsageError> => {
      const [action = ""] = values.action
      const act = actions[action]
      if (act !== undefined) return act(cacheFolder(), values)
      const known = Object.keys(actions).join(", ")
      return Effect.fail(new UsageError(`cache takes one of ${known}, not '${action}'`))
    }),
    values.json,
  )

const list = (folder: string, { json }: CacheValues) =>
  Effect.map(listCache(folder), (entries) => {
    if (json) {
      printJson({ folder, files: entries.map(described) })
      return
    }
    if (entries.length > 0) printLine(tableOf(entries))
    noteLine(`${summaryOf(entries)} in ${folder}`)
  })

const verify = (folder: string, { json, remove }: CacheValues) =>
  Effect.gen(function* () {
    const entries = yield* listCache(folder)
    const damaged = entries.filter((entry) => !isGood(folder, entry))
    const removed = remove ? damaged.filter((entry) => removeFromCache(folder, entry)) : []
    if (json) {
      printJson({
        folder,
        fileCount: entries.length,
        damaged: damaged.map(described),
        removedCount: removed.length,
      })
    } else {
      for (const { name, sizeBytes } of damaged)
        printLine(`damaged: ${name} (${formatBytes(sizeBytes)})`)
      const rest = removed.length > 0 ? `, ${removed.length} of them removed` : ""
      noteLine(`${summaryOf(entries)} in ${folder}, ${damaged.length} damaged${rest}`)
    }
    if (damaged.length > removed.length) return yield* new ReportedError({ exitCode: 1 })
  })

const prune = (folder: string, { json, keep }: CacheValues) =>
  Effect.map(pruneCache(folder, keep ?? Number.POSITIVE_INFINITY), (pruned) => {
    if (json) {
      printJson({ folder, ...pruned })
      return
    }
    const { removedCount, removedBytes, partCount } = pruned
    const parts = partCount === 0 ? "" : ` and ${formatCount(partCount, "leftover")}`
    noteLine(
      `removed ${formatCount(removedCount, "file")} (${formatBytes(removedBytes)})${parts} from ${folder}`,
    )
  })

type Action = (
  folder: string,
  values: CacheValues,
) => Effect.Effect<void, CacheFolderError | ReportedError>

const actions: Readonly<Record<string, Action>> = {
  ls: list,
  verify,
  prune,
}

const described = ({ name, sizeBytes, usedAtMs }: CacheEntry) => ({
  name,
  sizeBytes,
  usedAt: new Date(usedAtMs).toISOString(),
})

const summaryOf = (entries: readonly CacheEntry[]): string => {
  const bytes = entries.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  return `${formatCount(entries.length, "file")}, ${formatBytes(bytes)}`
}

const tableOf = (entries: readonly CacheEntry[]): string =>
  formatTable(
    [{ title: "file" }, { title: "size", align: "right" }, { title: "last used" }],
    entries.map(({ name, sizeBytes, usedAtMs }) => [
      name,
      formatBytes(sizeBytes),
      new Date(usedAtMs).toISOString().slice(0, 16).replace("T", " "),
    ]),
    { columns: columnsOf(stdout), heading: styleOf(stdout).bold },
  )
