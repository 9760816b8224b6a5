/** `GET /props`: what the server is. */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { JsonObject } from "../fields.ts"
import { Serving } from "../Serving.ts"
import { generationSettings } from "../sampling.ts"

const Props = Schema.Struct({
  default_generation_settings: Schema.Struct({ n_ctx: Schema.Int, params: JsonObject }),
  total_slots: Schema.Int,
  model_alias: Schema.String,
  model_path: Schema.String,
  chat_template: Schema.String,
  modalities: Schema.Struct({ vision: Schema.Boolean, audio: Schema.Boolean }),
  bos_token: Schema.String,
  eos_token: Schema.String,
  is_sleeping: Schema.Boolean,
}).annotations({ identifier: "LlamaProps" })

export const propsEndpoint = HttpApiEndpoint.get("props", "/props").addSuccess(Props)

export const handleProps = () =>
  Effect.gen(function* () {
    const { activity, model: served, options } = yield* Serving
    const { model, name, template } = yield* served
    const source = yield* Effect.orElseSucceed(
      Effect.map(template, (read) => read.source),
      () => "",
    )
    return {
      default_generation_settings: {
        n_ctx: model.contextSize,
        params: generationSettings(options.defaults),
      },
      total_slots: activity.slotCount,
      model_alias: name,
      model_path: model.plan.path,
      chat_template: source,
      modalities: { vision: false, audio: false },
      bos_token: model.info.beginText,
      eos_token: model.info.endText,
      is_sleeping: false,
    }
  })
