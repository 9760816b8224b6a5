/** All endpoints, and who answers them. */
import * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as OpenApi from "@effect/platform/OpenApi"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { ApiError } from "./ApiError.ts"
import { LlamaApi } from "./llama/api.ts"
import { handleApplyTemplate } from "./llama/applyTemplate.ts"
import { handleCompletion } from "./llama/completion.ts"
import { handleMetrics } from "./llama/metrics.ts"
import { handleSlotAction, handleSlots } from "./llama/slots.ts"
import { handleDetokenize, handleTokenize } from "./llama/tokens.ts"
import { OpenAiApi } from "./openai/api.ts"
import { handleChatCompletions } from "./openai/chatCompletions.ts"
import { handleCompletions } from "./openai/completions.ts"
import { handleGetModel, handleListModels } from "./openai/models.ts"
import { OwnApi } from "./own/api.ts"
import { handleCluster } from "./own/cluster.ts"
import { makePageHandler } from "./own/page.ts"
import { Serving } from "./Serving.ts"

export class Api extends HttpApi.make("ggml-rpc")
  .add(LlamaApi)
  .add(OpenAiApi)
  .add(OwnApi)
  .addError(ApiError)
  .annotate(OpenApi.Title, "ggml-rpc")
  .annotate(
    OpenApi.Description,
    "One GGUF model on a cluster, in the dialects of OpenAI and llama-server",
  ) {}

const llama = HttpApiBuilder.group(Api, "llama", (handlers) =>
  handlers
    .handle("health", () =>
      Effect.flatMap(Serving, ({ model }) => Effect.as(model, { status: "ok" })),
    )
    .handle("completion", handleCompletion)
    .handle("tokenize", handleTokenize)
    .handle("detokenize", handleDetokenize)
    .handle("applyTemplate", handleApplyTemplate)
    .handle("metrics", handleMetrics)
    .handle("slots", handleSlots)
    .handle("slotAction", handleSlotAction),
)

const openai = HttpApiBuilder.group(Api, "openai", (handlers) =>
  handlers
    .handle("listModels", handleListModels)
    .handle("getModel", handleGetModel)
    .handle("completions", handleCompletions)
    .handle("chatCompletions", handleChatCompletions),
)

const own = HttpApiBuilder.group(Api, "own", (handlers) =>
  Effect.map(makePageHandler, (handlePage) =>
    handlers.handle("page", handlePage).handle("cluster", handleCluster),
  ),
)

export const apiLayer = HttpApiBuilder.api(Api).pipe(Layer.provide([llama, openai, own]))
