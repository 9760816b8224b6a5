/** `ggml-rpc embed`: texts to vectors. */
import { normalized } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { formatEmbeddings } from "../embeddingView.ts"
import type { CommandValues } from "../flags/commands.ts"
import { textReport } from "../runReport.ts"
import { printLine } from "../terminal.ts"
import { UsageError } from "../UsageError.ts"
import { endingEngineFirst } from "./endingEngineFirst.ts"
import { openCluster, planOptionsOf, prepareNative } from "./inputs.ts"
import { givenModel } from "./modelSources.ts"
import { openModel } from "./openModel.ts"
import { processEscapes, readPrompt } from "./prompt.ts"

/** Texts that are computed together. */
const MOST_SLOTS = 16

export const embed = (values: CommandValues<"embed">) =>
  Effect.scoped(
    Effect.gen(function* () {
      const given = yield* givenModel(values)
      const texts = textsIn(yield* readPrompt(values), processEscapes(values.separator))
      if (texts.length === 0) return yield* Effect.fail(new UsageError("there is no text to embed"))
      const { path, gguf } = yield* openModel(given, values, false)
      yield* prepareNative
      const report = textReport()
      const cluster = yield* openCluster({ ...values, json: false }, report)
      const work = Effect.gen(function* () {
        const plan = yield* cluster.plan(path, {
          ...planOptionsOf(values, gguf),
          slots: Math.min(texts.length, MOST_SLOTS),
          embeddings: true,
          pooling: values.pooling,
        })
        report.planned(plan)
        const model = yield* cluster.load(plan, report.progress)
        report.loaded(model)
        const vectors = yield* Effect.forEach(
          texts,
          (text) => Effect.flatMap(model.tokenize(text), model.embed),
          { concurrency: "unbounded" },
        )
        printLine(
          formatEmbeddings(
            vectors.map((vector) => normalized(vector, values.normalize)),
            values.format,
          ),
        )
      }).pipe(Effect.ensuring(Effect.sync(report.close)))
      yield* endingEngineFirst(cluster, work)
    }),
  )

const textsIn = (text: string, separator: string): ReadonlyArray<string> =>
  (separator === "" ? [text] : text.split(separator)).filter((part) => part.trim() !== "")
