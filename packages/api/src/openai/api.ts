/** OpenAI's endpoints. */
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import { chatCompletionsEndpoint } from "./chatCompletions.ts"
import { completionsEndpoint } from "./completions.ts"
import { embeddingsEndpoint } from "./embeddings.ts"
import { getModelEndpoint, listModelsEndpoint } from "./models.ts"
import { responsesEndpoint } from "./responses.ts"

export class OpenAiApi extends HttpApiGroup.make("openai", { topLevel: true })
  .add(listModelsEndpoint)
  .add(getModelEndpoint)
  .add(completionsEndpoint)
  .add(chatCompletionsEndpoint)
  .add(responsesEndpoint)
  .add(embeddingsEndpoint) {}
