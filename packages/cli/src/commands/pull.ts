/** `ggml-rpc pull`: models by name, on the disk for later. */
import * as Effect from "effect/Effect"
import type { CommandValues } from "../flags/commands.ts"
import { withJsonErrors } from "../jsonErrors.ts"
import { printJson } from "../runReport.ts"
import { printLine } from "../terminal.ts"
import { UsageError } from "../UsageError.ts"
import { fetchGiven, type GivenModel, hubModel, urlModel } from "./modelSources.ts"

type PullValues = CommandValues<"pull">

export const pull = (values: PullValues) =>
  withJsonErrors(
    Effect.flatMap(wantedOf(values), (wanted) =>
      Effect.forEach(wanted, (given) => pullOne(given, values), { discard: true }),
    ),
    values.json,
  )

const wantedOf = ({ names, hfRepo, hfFile, modelUrl }: PullValues) => {
  const repos = [...names, ...(hfRepo === undefined ? [] : [hfRepo])]
  if (hfFile !== undefined && repos.length !== 1) {
    return Effect.fail(new UsageError("-hff names a file of one repository: name that as well"))
  }
  const wanted = [
    ...repos.map((name) => hubModel(name, hfFile)),
    ...(modelUrl === undefined ? [] : [urlModel(modelUrl)]),
  ]
  return wanted.length > 0
    ? Effect.succeed(wanted)
    : Effect.fail(new UsageError("no model is given: name one, as user/repo or user/repo:quant"))
}

const pullOne = (given: GivenModel, values: PullValues) =>
  given.kind === "file"
    ? Effect.void
    : Effect.map(fetchGiven(given, values, { isJson: values.json }), (model) => {
        if (values.json) printJson({ event: "model", name: given.name, ...model })
        else printLine(model.path)
      })
