/** What flags say of guesses. */
import type { Cluster } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import type { FlagValues } from "../flags/Flag.ts"
import type { speculationFlags } from "../flags/speculation.ts"
import { noteLine } from "../terminal.ts"
import { UsageError } from "../UsageError.ts"
import { type GivenModel, hubModel } from "./modelSources.ts"

type SpeculationValues = FlagValues<typeof speculationFlags>

type Part = Pick<Cluster.PlanOptions, "speculation">

/** @param pathOf the file of the draft model, or its header where that is enough */
export const speculationOf = <E, R>(
  values: SpeculationValues,
  pathOf: (given: GivenModel) => Effect.Effect<string, E, R>,
) =>
  Effect.gen(function* () {
    const { specType } = values
    const ngram = specType?.includes("ngram-simple")
      ? {
          lookupCount: values.specNgramSimpleSizeN,
          draftCount: values.specNgramSimpleSizeM,
        }
      : undefined
    const draft = yield* draftOf(values, pathOf)
    const none: Part = {}
    return ngram === undefined && draft === undefined
      ? none
      : { speculation: { ...(ngram && { ngram }), ...(draft && { draft }) } }
  })

const draftOf = <E, R>(
  values: SpeculationValues,
  pathOf: (given: GivenModel) => Effect.Effect<string, E, R>,
) =>
  Effect.gen(function* () {
    const { specType, specDraftModel, specDraftHf, specDraftDevice } = values
    const isWanted = specType === undefined || specType.includes("draft-simple")
    if (specDraftModel === undefined && specDraftHf === undefined) {
      if (!specType?.includes("draft-simple")) return undefined
      return yield* Effect.fail(
        new UsageError("--spec-type draft-simple needs a smaller model: name it with -md or -hfd"),
      )
    }
    if (!isWanted) {
      noteLine(
        `note: the smaller model is not used: --spec-type is ${specType.join(",")}, and draft-simple is not among them`,
      )
      return undefined
    }
    // As llama-server: with a repository, the file is one of it.
    const given: GivenModel =
      specDraftHf === undefined
        ? { kind: "file", path: specDraftModel! }
        : hubModel(specDraftHf, specDraftModel)
    const draft: Cluster.DraftModelOptions = {
      path: yield* pathOf(given),
      draftCount: values.specDraftNMax,
      leastCount: values.specDraftNMin,
      leastProbability: values.specDraftPMin,
      devices:
        specDraftDevice?.length === 1 && specDraftDevice[0]!.toLowerCase() === "none"
          ? []
          : specDraftDevice,
      gpuLayers: values.specDraftNgl,
      threads: values.specDraftThreads,
      typeK: values.specDraftTypeK,
      typeV: values.specDraftTypeV,
    }
    return draft
  })
