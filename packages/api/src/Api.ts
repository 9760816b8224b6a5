/** All endpoints, and who answers them. */
import * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as OpenApi from "@effect/platform/OpenApi"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { ApiError } from "./ApiError.ts"
import { AnthropicApi, handleCountTokens, handleMessages } from "./anthropic/api.ts"
import { LlamaApi } from "./llama/api.ts"
import { handleApplyTemplate } from "./llama/applyTemplate.ts"
import { handleCompletion } from "./llama/completion.ts"
import { handleEmbedding } from "./llama/embedding.ts"
import { handleInfill } from "./llama/infill.ts"
import { handleMetrics } from "./llama/metrics.ts"
import { handleProps } from "./llama/props.ts"
import { handleRerank } from "./llama/rerank.ts"
import { handleSlotAction, handleSlots } from "./llama/slots.ts"
import { handleDetokenize, handleTokenize } from "./llama/tokens.ts"
import { handleChat, handleGenerate } from "./ollama/answers.ts"
import { OllamaApi } from "./ollama/api.ts"
import { handleEmbed } from "./ollama/embed.ts"
import { handlePs, handleShow, handleTags, handleVersion } from "./ollama/models.ts"
import { withErrors } from "./openApiErrors.ts"
import { OpenAiApi } from "./openai/api.ts"
import { handleChatCompletions } from "./openai/chatCompletions.ts"
import { handleCompletions } from "./openai/completions.ts"
import { handleEmbeddings } from "./openai/embeddings.ts"
import { handleGetModel, handleListModels } from "./openai/models.ts"
import { handleResponses } from "./openai/responses.ts"
import { OwnApi } from "./own/api.ts"
import { handleCluster } from "./own/cluster.ts"
import { makePageHandler } from "./own/page.ts"
import { Serving } from "./Serving.ts"

export class Api extends HttpApi.make("ggml-rpc")
  .add(LlamaApi)
  .add(OpenAiApi)
  .add(OwnApi)
  .add(AnthropicApi)
  .add(OllamaApi)
  .addError(ApiError)
  .annotate(OpenApi.Transform, withErrors)
  .annotate(OpenApi.Title, "ggml-rpc")
  .annotate(
    OpenApi.Description,
    "One GGUF model on a cluster, in the dialects of OpenAI, Anthropic, Ollama and llama-server",
  ) {}

const llama = HttpApiBuilder.group(Api, "llama", (handlers) =>
  handlers
    .handle("health", () =>
      Effect.flatMap(Serving, ({ model }) => Effect.as(model, { status: "ok" })),
    )
    .handle("completion", handleCompletion)
    .handle("tokenize", handleTokenize)
    .handle("detokenize", handleDetokenize)
    .handle("infill", handleInfill)
    .handle("embedding", handleEmbedding)
    .handle("rerank", handleRerank)
    .handle("props", handleProps)
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
    .handle("chatCompletions", handleChatCompletions)
    .handle("responses", handleResponses)
    .handle("embeddings", handleEmbeddings),
)

const own = HttpApiBuilder.group(Api, "own", (handlers) =>
  Effect.map(makePageHandler, (handlePage) =>
    handlers.handle("page", handlePage).handle("cluster", handleCluster),
  ),
)

const anthropic = HttpApiBuilder.group(Api, "anthropic", (handlers) =>
  handlers.handle("messages", handleMessages).handle("countTokens", handleCountTokens),
)

const ollama = HttpApiBuilder.group(Api, "ollama", (handlers) =>
  handlers
    .handle("chat", handleChat)
    .handle("generate", handleGenerate)
    .handle("embed", handleEmbed)
    .handle("tags", handleTags)
    .handle("ps", handlePs)
    .handle("show", handleShow)
    .handle("version", handleVersion),
)

export const apiLayer = HttpApiBuilder.api(Api).pipe(
  Layer.provide([llama, openai, anthropic, ollama, own]),
)
