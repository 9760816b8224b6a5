/** `GET /v1/models`: the one model that is served. */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { ApiError } from "../ApiError.ts"
import { type ServedModel, Serving } from "../Serving.ts"

const Model = Schema.Struct({
  id: Schema.String,
  object: Schema.Literal("model"),
  created: Schema.Int,
  owned_by: Schema.String,
  meta: Schema.Struct({
    n_vocab: Schema.Int,
    n_ctx: Schema.Int,
    n_ctx_train: Schema.Int,
    n_embd: Schema.Int,
    n_params: Schema.Number,
    size: Schema.Number,
  }),
}).annotations({ identifier: "OpenAiModel" })

const ModelList = Schema.Struct({ object: Schema.Literal("list"), data: Schema.Array(Model) })

export const listModelsEndpoint = HttpApiEndpoint.get("listModels", "/v1/models").addSuccess(
  ModelList,
)

export const getModelEndpoint = HttpApiEndpoint.get("getModel", "/v1/models/:id")
  .setPath(Schema.Struct({ id: Schema.String }))
  .addSuccess(Model)

const modelOf = ({ model, name, createdAt }: ServedModel): typeof Model.Type => ({
  id: name,
  object: "model",
  created: createdAt,
  owned_by: "ggml-rpc",
  meta: {
    n_vocab: model.info.vocabSize,
    n_ctx: model.contextSize,
    n_ctx_train: model.info.trainContextSize,
    n_embd: model.info.embeddingSize,
    n_params: model.info.parameterCount,
    size: model.info.sizeBytes,
  },
})

const served = Effect.flatMap(Serving, ({ model }) => Effect.map(model, modelOf))

export const handleListModels = () =>
  Effect.map(served, (model) => ({ object: "list" as const, data: [model] }))

export const handleGetModel = ({ path }: { readonly path: { readonly id: string } }) =>
  Effect.filterOrFail(
    served,
    ({ id }) => id === path.id,
    ({ id }) =>
      new ApiError({
        kind: "not-found",
        message: `There is no model '${path.id}' here, but '${id}'.`,
      }),
  )
