/** `ggml-rpc rm`: removes models from the disk. */
import { removeModel } from "@ggml-rpc/models"
import { formatBytes } from "@ggml-rpc/native/bindings"
import * as Effect from "effect/Effect"
import type { CommandValues } from "../flags/commands.ts"
import { withJsonErrors } from "../jsonErrors.ts"
import { printJson } from "../runReport.ts"
import { noteLine } from "../terminal.ts"
import { UsageError } from "../UsageError.ts"

type RmValues = CommandValues<"rm">

export const rm = ({ names, json }: RmValues) =>
  withJsonErrors(
    Effect.gen(function* () {
      if (names.length === 0) {
        const usage = "no model is given: name one, as 'ggml-rpc ls' lists it"
        return yield* Effect.fail(new UsageError(usage))
      }
      yield* Effect.forEach(names, (name) => removeOne(name, json), { discard: true })
    }),
    json,
  )

const removeOne = (name: string, isJson: boolean) =>
  Effect.map(removeModel(name), (removed) => {
    if (isJson) printJson({ event: "removed", ...removed })
    else noteLine(`removed ${name}: ${formatBytes(removed.freedBytes)} are free again`)
  })
