/** Ollama's endpoints. Chats and texts are streamed as a JSON object a line, unless `stream` is false. */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import * as Schema from "effect/Schema"
import { JsonObject } from "../fields.ts"
import { EmbedAnswer, EmbedRequest } from "./embed.ts"
import { Models, RunningModels, ShownModel, ShowRequest } from "./models.ts"
import { OllamaChatRequest, OllamaGenerateRequest } from "./requests.ts"

export class OllamaApi extends HttpApiGroup.make("ollama", { topLevel: true })
  .add(
    HttpApiEndpoint.post("chat", "/api/chat").setPayload(OllamaChatRequest).addSuccess(JsonObject),
  )
  .add(
    HttpApiEndpoint.post("generate", "/api/generate")
      .setPayload(OllamaGenerateRequest)
      .addSuccess(JsonObject),
  )
  .add(HttpApiEndpoint.post("embed", "/api/embed").setPayload(EmbedRequest).addSuccess(EmbedAnswer))
  .add(HttpApiEndpoint.get("tags", "/api/tags").addSuccess(Models))
  .add(HttpApiEndpoint.get("ps", "/api/ps").addSuccess(RunningModels))
  .add(HttpApiEndpoint.post("show", "/api/show").setPayload(ShowRequest).addSuccess(ShownModel))
  .add(
    HttpApiEndpoint.get("version", "/api/version").addSuccess(
      Schema.Struct({ version: Schema.String }),
    ),
  ) {}
