/** `POST /rerank`: how well documents answer a query, by a model that was loaded to rank. */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import { ggufString } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type ApiError, invalidRequest, notSupported } from "../ApiError.ts"
import { embed } from "../embeddings.ts"
import { optional } from "../fields.ts"
import { tokenize } from "../generate.ts"
import { Serving } from "../Serving.ts"
import { adds, modelFile, specialToken } from "../vocabulary.ts"

const RerankRequest = Schema.Struct({
  query: Schema.String,
  documents: optional(Schema.Array(Schema.String)),
  /** Instead of `documents`: the answer has the form of text-embeddings-inference then. */
  texts: optional(Schema.Array(Schema.String)),
  top_n: optional(Schema.NonNegativeInt),
  return_text: optional(Schema.Boolean),
}).annotations({ identifier: "RerankRequest" })

const Ranking = Schema.Struct({
  model: Schema.String,
  object: Schema.Literal("list"),
  usage: Schema.Struct({ prompt_tokens: Schema.Int, total_tokens: Schema.Int }),
  results: Schema.Array(Schema.Struct({ index: Schema.Int, relevance_score: Schema.Number })),
}).annotations({ identifier: "Ranking" })

const TextRanking = Schema.Array(
  Schema.Struct({
    index: Schema.Int,
    score: Schema.Number,
    text: Schema.optional(Schema.String),
  }),
)

export const rerankEndpoint = HttpApiEndpoint.post("rerank", "/rerank")
  .setPayload(RerankRequest)
  .addSuccess(Schema.Union(Ranking, TextRanking))

/** llama_pooling_type RANK. */
const RANK = 4

/** Each document with the query, as its template says, or else with the marks between that the model has. */
const promptsOf = (
  query: string,
  documents: ReadonlyArray<string>,
): Effect.Effect<ReadonlyArray<ReadonlyArray<number>>, ApiError, Serving> =>
  Effect.gen(function* () {
    const { info } = (yield* (yield* Serving).model).model
    const file = yield* modelFile
    const template = ggufString(file, "tokenizer.chat_template.rerank")
    if (template !== undefined) {
      return yield* Effect.forEach(documents, (document) =>
        tokenize(
          template.replaceAll("{query}", () => query).replaceAll("{document}", () => document),
          {
            addSpecial: false,
          },
        ),
      )
    }
    const plain = { addSpecial: false, parseSpecial: false }
    const separator = yield* specialToken(file, ["seperator", "separator"], [])
    const end = info.endToken >= 0 ? info.endToken : separator
    const ends = adds(file, "eos") && end !== undefined ? [end] : []
    const separators = adds(file, "sep") && separator !== undefined ? [separator] : []
    const asked = [
      ...(info.addsBeginToken ? [info.beginToken] : []),
      ...(yield* tokenize(query, plain)),
      ...ends,
      ...separators,
    ]
    return yield* Effect.forEach(documents, (document) =>
      Effect.map(tokenize(document, plain), (tokens) => [...asked, ...tokens, ...ends]),
    )
  })

export const handleRerank = ({ payload }: { readonly payload: typeof RerankRequest.Type }) =>
  Effect.gen(function* () {
    const { model, name } = yield* (yield* Serving).model
    const { pooling } = model.plan.context
    if (pooling !== RANK) {
      return yield* notSupported("This server does not rerank: start it with --reranking.")
    }
    const { query, documents, texts, return_text, top_n } = payload
    const given = texts ?? documents ?? []
    if (given.length === 0) {
      return yield* invalidRequest("'documents' must be texts, one at least.", "documents")
    }
    const ranked = yield* embed(yield* promptsOf(query, given))
    const scores = ranked
      .map(({ vector }, index) => ({ index, score: vector[0] ?? 0 }))
      .sort((one, other) => other.score - one.score)
      .slice(0, top_n ?? given.length)
    if (texts !== undefined) {
      return scores.map(({ index, score }) => ({
        index,
        score,
        ...(return_text === true ? { text: given[index]! } : {}),
      }))
    }
    const count = ranked.reduce((sum, { tokenCount }) => sum + tokenCount, 0)
    return {
      model: name,
      object: "list" as const,
      usage: { prompt_tokens: count, total_tokens: count },
      results: scores.map(({ index, score }) => ({ index, relevance_score: score })),
    }
  })
