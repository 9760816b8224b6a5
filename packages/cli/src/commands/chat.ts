/** `ggml-rpc chat`: a conversation with a model, turn by turn. */
import { existsSync } from "node:fs"
import type { Cluster } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { Conversation } from "../chat/Conversation.ts"
import { type ModelFile, talk } from "../chat/talk.ts"
import { affixesOf, givenTemplate, readText } from "../chat/template.ts"
import type { CommandValues } from "../flags/commands.ts"
import { textReport } from "../runReport.ts"
import { UsageError } from "../UsageError.ts"
import { endingEngineFirst } from "./endingEngineFirst.ts"
import { openCluster, planOptionsOf, prepareNative } from "./inputs.ts"
import { type GivenModel, givenModel, hubModel, modelPath } from "./modelSources.ts"
import { openModel } from "./openModel.ts"
import { readPrompt, stopTextsOf } from "./prompt.ts"
import { samplingOf } from "./sampling.ts"
import { speculationOf } from "./speculation.ts"

type ChatValues = CommandValues<"chat">

export const chat = (values: ChatValues) =>
  Effect.scoped(
    Effect.gen(function* () {
      const given = yield* givenModel(values)
      // What is piped in are messages, line by line.
      const isGiven = values.prompt !== undefined || values.file !== undefined
      const first = isGiven ? yield* readPrompt(values) : undefined
      const sampling = { ...(yield* samplingOf(values)), ...stopTextsOf(values) }
      const model = yield* openModel(given, values, false)
      const speculation = yield* speculationOf(values, (draft) =>
        modelPath(draft, values, {}, Effect.void),
      )
      yield* talkWith(model, values, sampling, first, speculation)
    }),
  )

/** @param first the first message */
export const talkWith = (
  model: ModelFile,
  values: Omit<ChatValues, "prompt" | "file" | "reversePrompt">,
  sampling: Cluster.GenerateOptions,
  first: string | undefined,
  speculation: Pick<Cluster.PlanOptions, "speculation">,
) =>
  Effect.gen(function* () {
    const system = yield* systemMessage(values)
    const affixes = affixesOf(values)
    const templateSource = affixes?.source ?? (yield* givenTemplate(values))
    yield* prepareNative
    const report = textReport()
    const cluster = yield* openCluster({ ...values, json: false }, report)
    const talking = talk(
      cluster,
      model,
      {
        conversation: new Conversation(system),
        ...{ first, sampling, templateSource },
        isSingleTurn: values.singleTurn,
        tellsStats: values.perf,
        kwargs: { ...values.chatTemplateKwargs, ...affixes?.variables },
        thinks: values.reasoning !== "off",
        reasoningFormat: values.reasoningFormat,
        planOptionsOf: (gguf) => ({ ...planOptionsOf(values, gguf), ...speculation }),
        find: (name) => openModel(named(name), values, false),
      },
      report,
    )
    yield* endingEngineFirst(cluster, talking)
  })

/** A file, or else a name of the hub's. */
const named = (name: string): GivenModel =>
  !existsSync(name) && /^[^/\s]+\/[^/\s]+$/.test(name) && !name.endsWith(".gguf")
    ? hubModel(name)
    : { kind: "file", path: name }

const systemMessage = ({
  systemPrompt,
  systemPromptFile,
}: Pick<ChatValues, "systemPrompt" | "systemPromptFile">) =>
  Effect.gen(function* () {
    if (systemPromptFile === undefined) return systemPrompt
    if (systemPrompt !== undefined) {
      const problem = "-sys and -sysf both give a system message; one is needed"
      return yield* Effect.fail(new UsageError(problem))
    }
    return (yield* readText("--system-prompt-file", systemPromptFile)).replace(/\n$/, "")
  })
