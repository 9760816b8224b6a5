/** `ggml-rpc plan`: the split, without loading the model. */
import {
  describeExactServers,
  GgufError,
  type GgufFile,
  loadModelHeader,
  ModelError,
} from "@ggml-rpc/client"
import { formatBytes } from "@ggml-rpc/native/bindings"
import * as Effect from "effect/Effect"
import type { CommandValues } from "../flags/commands.ts"
import { withJsonErrors } from "../jsonErrors.ts"
import { noteText } from "../newsView.ts"
import { formatPlanTable, formatPlanTitle, planJson, planNotes } from "../planView.ts"
import { printJson } from "../runReport.ts"
import { columnsOf, noteLine, printLine, stdout, styleOf } from "../terminal.ts"
import { wrap } from "../wrap.ts"
import { openCluster, planOptionsOf, prepareNative } from "./inputs.ts"
import { givenModel, headerPath, nameOf } from "./modelSources.ts"
import { hasTokenizer } from "./openModel.ts"
import { speculationOf } from "./speculation.ts"

type PlanValues = CommandValues<"plan">

export const plan = (values: PlanValues) =>
  withJsonErrors(
    Effect.scoped(
      Effect.gen(function* () {
        const given = yield* givenModel(values)
        const { path, isWhole } = yield* headerPath(given, values)
        const name = isWhole ? path : nameOf(given)
        const gguf = yield* named(loadModelHeader(path), path, name)
        yield* prepareNative
        const cluster = yield* openCluster(values)
        const speculation = yield* speculationOf(values, (draft) =>
          Effect.map(headerPath(draft, values), (header) => header.path),
        )
        const options = { ...planOptionsOf(values, gguf), ...speculation }
        // Plans are made without vocabularies, and a run would fail at them.
        if (hasTokenizer(gguf)) yield* named(cluster.tokenize(path, ""), path, name)
        const draft = options.speculation?.draft
        if (draft !== undefined && hasTokenizer(yield* loadModelHeader(draft.path))) {
          yield* cluster.tokenize(draft.path, "")
        }
        const made = { ...(yield* named(cluster.plan(path, options), path, name)), path: name }
        if (values.json) {
          const download = isWhole ? {} : { downloadBytes: fileBytesOf(gguf) }
          printJson({ event: "plan", ...planJson(made), ...download })
          return
        }
        printLine(formatPlanTitle(made))
        const { bold } = styleOf(stdout)
        const columns = columnsOf(stdout)
        printLine(formatPlanTable(made, { columns, heading: bold }))
        for (const note of planNotes(made, columns)) printLine(note)
        // A load tells by itself.
        const exact = [...made.exactServers, ...(made.draft?.exactServers ?? [])]
        if (exact.length > 0) {
          const note = noteText(describeExactServers(exact))
          printLine(wrap(note, columns).join("\n"))
        }
        if (made.draft !== undefined) {
          printLine(`\nguessing: ${formatPlanTitle(made.draft)}`)
          printLine(formatPlanTable(made.draft, { columns, heading: bold }))
        }
        if (!isWhole) {
          const size = formatBytes(fileBytesOf(gguf))
          noteLine(`${name} is not on this disk: a run would download ${size}`)
        }
      }),
    ),
    values.json,
  )

const fileBytesOf = ({ parts }: GgufFile): number =>
  parts.reduce((sum, { fileBytes }) => sum + fileBytes, 0)

/** Errors name the model as the user did, not the file that stands for it. */
const named = <A, E, R>(effect: Effect.Effect<A, E, R>, path: string, name: string) =>
  Effect.mapError(effect, (error) => {
    if (error instanceof GgufError) {
      const { reason, message } = error
      return new GgufError({ path: name, reason, message: message.replaceAll(path, name) })
    }
    return error instanceof ModelError && error.path === path
      ? new ModelError({ ...error, path: name, detail: error.detail.replaceAll(path, name) })
      : error
  })
