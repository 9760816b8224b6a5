/** What Ollama tells of its models: here of the one that is served. */
import type { GgufFile } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import packageJson from "../../package.json" with { type: "json" }
import { JsonObject, optional } from "../fields.ts"
import { type ServedModel, Serving } from "../Serving.ts"
import { modelFile } from "../vocabulary.ts"

const Details = Schema.Struct({
  parent_model: Schema.String,
  format: Schema.Literal("gguf"),
  family: Schema.String,
  families: Schema.Array(Schema.String),
  parameter_size: Schema.String,
  quantization_level: Schema.String,
})

const Model = Schema.Struct({
  name: Schema.String,
  model: Schema.String,
  modified_at: Schema.String,
  size: Schema.Number,
  digest: Schema.String,
  details: Details,
}).annotations({ identifier: "OllamaModel" })

export const Models = Schema.Struct({ models: Schema.Array(Model) })

export const RunningModels = Schema.Struct({
  models: Schema.Array(
    Schema.Struct({
      ...Model.fields,
      expires_at: Schema.String,
      /** Bytes of its weights that are on servers and GPUs. */
      size_vram: Schema.Number,
      context_length: Schema.Int,
    }),
  ),
})

export const ShowRequest = Schema.Struct({ model: optional(Schema.String) })

export const ShownModel = Schema.Struct({
  modelfile: Schema.String,
  parameters: Schema.String,
  template: Schema.String,
  details: Details,
  model_info: JsonObject,
  capabilities: Schema.Array(Schema.String),
  modified_at: Schema.String,
})

/** Such as `8.0B`. */
const parameterSize = (count: number): string =>
  count >= 1e9 ? `${(count / 1e9).toFixed(1)}B` : `${(count / 1e6).toFixed(2)}M`

/** What stands behind the size in descriptions such as `llama 8B Q4_K - Medium`. */
const quantization = (description: string): string => /[BM] (.+)$/.exec(description)?.[1] ?? ""

const detailsOf = ({ model: { info } }: ServedModel): typeof Details.Type => ({
  parent_model: "",
  format: "gguf",
  family: info.architecture,
  families: [info.architecture],
  parameter_size: parameterSize(info.parameterCount),
  quantization_level: quantization(info.description),
})

const loadedAt = ({ createdAt }: ServedModel): string => new Date(createdAt * 1000).toISOString()

const modelOf = (served: ServedModel): typeof Model.Type => ({
  name: served.name,
  model: served.name,
  modified_at: loadedAt(served),
  size: served.model.info.sizeBytes,
  digest: "",
  details: detailsOf(served),
})

const served = Effect.flatMap(Serving, ({ model }) => model)

export const handleTags = () => Effect.map(served, (model) => ({ models: [modelOf(model)] }))

export const handlePs = () =>
  Effect.map(served, (own) => ({
    models: [
      {
        ...modelOf(own),
        // It stays.
        expires_at: "0001-01-01T00:00:00Z",
        size_vram: own.model.breakdown.devices.reduce(
          (sum, { weightBytes }) => sum + weightBytes,
          0,
        ),
        context_length: own.model.contextSize,
      },
    ],
  }))

/** The metadata, but for what is as long as the vocabulary. */
const modelInfo = ({ metadata }: GgufFile): typeof JsonObject.Type =>
  Object.fromEntries(
    [...metadata].flatMap(([key, held]) =>
      held.type === "array"
        ? []
        : [[key, typeof held.value === "bigint" ? Number(held.value) : held.value]],
    ),
  )

export const handleShow = () =>
  Effect.gen(function* () {
    const own = yield* served
    const template = yield* Effect.option(own.template)
    const source = template._tag === "Some" ? template.value.source : ""
    const format = template._tag === "Some" ? template.value.formatFor([]) : undefined
    const isForEmbeddings = own.model.plan.context.embeddings
    return {
      modelfile: `FROM ${own.model.plan.path}\n`,
      parameters: "",
      template: source,
      details: detailsOf(own),
      model_info: modelInfo(yield* modelFile),
      capabilities: isForEmbeddings
        ? ["embedding"]
        : ["completion", "tools", ...(format?.thoughts === undefined ? [] : ["thinking"])],
      modified_at: loadedAt(own),
    }
  })

export const handleVersion = () => Effect.succeed({ version: packageJson.version })
