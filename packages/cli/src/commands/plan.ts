/** `ggml-rpc plan`: the split, without loading the model. */
import { loadGguf } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import type { FlagValues, planFlags } from "../flags.ts"
import { withJsonErrors } from "../jsonErrors.ts"
import { formatPlanTable, formatPlanTitle, planJson, planNotes } from "../planView.ts"
import { printJson } from "../runReport.ts"
import { columnsOf, printLine, styleOf } from "../terminal.ts"
import { modelPath, openCluster, planOptionsOf, prepareNative } from "./inputs.ts"

type PlanValues = FlagValues<typeof planFlags> & { readonly files: ReadonlyArray<string> }

export const plan = (values: PlanValues) =>
  withJsonErrors(
    Effect.scoped(
      Effect.gen(function* () {
        const path = yield* modelPath(values)
        const gguf = yield* loadGguf(path)
        yield* prepareNative
        const cluster = yield* openCluster(values)
        const made = yield* cluster.plan(path, planOptionsOf(values, gguf))
        if (values.json) {
          printJson({ event: "plan", ...planJson(made) })
          return
        }
        printLine(formatPlanTitle(made))
        const { bold } = styleOf(process.stdout)
        const columns = columnsOf(process.stdout)
        printLine(formatPlanTable(made, { columns, heading: bold }))
        for (const note of planNotes(made, columns)) printLine(note)
      }),
    ),
    values.json,
  )
