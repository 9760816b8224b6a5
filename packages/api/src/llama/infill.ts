/** `POST /infill`: what belongs between two pieces of code, by a model that has tokens for that. */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { notSupported } from "../ApiError.ts"
import { optional } from "../fields.ts"
import { tokenize } from "../generate.ts"
import { Serving } from "../Serving.ts"
import { modelFile, specialToken } from "../vocabulary.ts"
import { CompletionAnswer, complete, completionFields } from "./completion.ts"

const Extra = Schema.Struct({ text: Schema.String, filename: optional(Schema.String) })

const InfillRequest = Schema.Struct({
  ...completionFields,
  input_prefix: Schema.String,
  input_suffix: Schema.String,
  input_extra: optional(Schema.Array(Extra)),
  prompt: optional(Schema.String),
}).annotations({ identifier: "InfillRequest" })
type InfillRequest = typeof InfillRequest.Type

export const infillEndpoint = HttpApiEndpoint.post("infill", "/infill")
  .setPayload(InfillRequest)
  .addSuccess(CompletionAnswer)

/** Keys of a file's metadata, and texts that llama.cpp knows the tokens by (v0.5.0, src/llama-vocab.cpp). */
const marks = {
  prefix: {
    keys: ["fim_pre", "prefix"],
    texts: [
      ...["<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>"],
      ...["<|code_prefix|>", "<|prefix|>"],
    ],
  },
  suffix: {
    keys: ["fim_suf", "suffix"],
    texts: [
      ...["<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>"],
      ...["<|code_suffix|>", "<|suffix|>"],
    ],
  },
  middle: {
    keys: ["fim_mid", "middle"],
    texts: [
      ...["<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>"],
      ...["<|code_middle|>", "<|middle|>"],
    ],
  },
  repository: {
    keys: ["fim_rep"],
    texts: ["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
  },
  file: { keys: ["fim_sep"], texts: ["<|file_sep|>"] },
} as const

const findMarks = Effect.gen(function* () {
  const file = yield* modelFile
  const found = yield* Effect.all({
    prefix: specialToken(file, marks.prefix.keys, marks.prefix.texts),
    suffix: specialToken(file, marks.suffix.keys, marks.suffix.texts),
    middle: specialToken(file, marks.middle.keys, marks.middle.texts),
    repository: specialToken(file, marks.repository.keys, marks.repository.texts),
    file: specialToken(file, marks.file.keys, marks.file.texts),
  })
  const { prefix, suffix, middle } = found
  if (prefix === undefined || suffix === undefined || middle === undefined) {
    return yield* notSupported(
      "This model cannot fill gaps: its vocabulary has no tokens for what is before, behind and between.",
    )
  }
  return { ...found, prefix, suffix, middle }
})

const plain = { addSpecial: false, parseSpecial: false }

/** The other files, each with its name, or set apart where the model has no token for files. */
const extraTokens = (
  extra: NonNullable<InfillRequest["input_extra"]>,
  file: number | undefined,
  repository: number | undefined,
) =>
  Effect.gen(function* () {
    const named = (filename: string) =>
      Effect.map(tokenize(`${filename}\n`, plain), (name) =>
        file === undefined ? [] : [file, ...name],
      )
    const project = yield* tokenize("myproject\n", plain)
    const chunks = yield* Effect.forEach(extra, ({ text, filename = "tmp" }) =>
      Effect.gen(function* () {
        const head =
          file === undefined
            ? yield* tokenize("\n\n--- snippet ---\n\n", plain)
            : yield* named(filename)
        return [...head, ...(yield* tokenize(text, plain))]
      }),
    )
    return [
      ...(repository === undefined ? [] : [repository, ...project]),
      ...chunks.flat(),
      ...(yield* named("filename")),
    ]
  })

/** Three quarters of a batch before the gap, what is left of it behind; other files as far as there is room. */
const infillPrompt = (request: InfillRequest) =>
  Effect.gen(function* () {
    const { model } = yield* (yield* Serving).model
    const { contextSize, info, plan } = model
    const { prefix, suffix, middle, file, repository } = yield* findMarks
    const before = yield* tokenize(request.input_prefix, plain)
    const behind = yield* tokenize(request.input_suffix, plain)
    const begun = yield* tokenize(request.prompt ?? "", { addSpecial: false })
    const extra = yield* extraTokens(request.input_extra ?? [], file, repository)
    const quarter = Math.floor(plan.context.batchSize / 4)
    const behindCount = Math.max(0, quarter - 2 - begun.length)
    const wanted = 2 * Math.max(0, request.n_predict ?? 0)
    const extraCount = Math.max(0, contextSize - plan.context.batchSize - wanted)
    return [
      ...(info.addsBeginToken ? [info.beginToken] : []),
      ...extra.slice(Math.max(0, extra.length - extraCount)),
      ...[prefix, ...before.slice(Math.max(0, before.length - 3 * quarter))],
      ...[suffix, ...behind.slice(0, behindCount)],
      ...[middle, ...begun],
    ]
  })

export const handleInfill = ({ payload }: { readonly payload: InfillRequest }) =>
  Effect.flatMap(infillPrompt(payload), (prompt) => complete(payload, [prompt]))
