/** `ggml-rpc ls`: the models that are on the disk. */
import { type CachedModels, listModels } from "@ggml-rpc/models"
import { formatBytes } from "@ggml-rpc/native/bindings"
import * as Effect from "effect/Effect"
import type { CommandValues } from "../flags/commands.ts"
import { printJson } from "../runReport.ts"
import { formatTable } from "../table.ts"
import { columnsOf, noteLine, printLine, stdout, styleOf } from "../terminal.ts"
import { formatCount } from "../units.ts"

export const ls = ({ json }: CommandValues<"ls">) =>
  Effect.map(listModels, (listed) => {
    if (json) {
      printJson(listedJson(listed))
      return
    }
    if (listed.models.length + listed.partials.length > 0) printLine(tableOf(listed))
    const sizes = [...listed.models, ...listed.partials].map(({ sizeBytes }) => sizeBytes)
    const bytes = sizes.reduce((sum, size) => sum + size, 0)
    const folders = [...new Set([listed.hubFolder, listed.urlFolder])].join(" and ")
    noteLine(`${formatCount(listed.models.length, "model")}, ${formatBytes(bytes)} in ${folders}`)
  })

const listedJson = ({ models, ...rest }: CachedModels) => ({
  ...rest,
  models: models.map(({ changedAtMs, ...model }) => ({
    ...model,
    changedAt: new Date(changedAtMs).toISOString(),
  })),
})

const tableOf = ({ models, partials }: CachedModels): string =>
  formatTable(
    [
      // Wide enough for most names.
      { title: "model", minWidth: 24 },
      { title: "size", align: "right" },
      { title: "files", align: "right" },
      { title: "changed" },
    ],
    [
      ...models.map(({ name, sizeBytes, fileCount, missingCount, changedAtMs }) => [
        name,
        formatBytes(sizeBytes),
        missingCount > 0 ? `${fileCount} of ${fileCount + missingCount}` : String(fileCount),
        new Date(changedAtMs).toISOString().slice(0, 16).replace("T", " "),
      ]),
      ...partials.map(({ name, sizeBytes }) => [
        name,
        formatBytes(sizeBytes),
        "–",
        "a download that stopped",
      ]),
    ],
    { columns: columnsOf(stdout), heading: styleOf(stdout).bold },
  )
