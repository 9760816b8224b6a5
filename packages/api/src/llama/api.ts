/** llama-server's own endpoints. */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import * as Schema from "effect/Schema"
import { applyTemplateEndpoint } from "./applyTemplate.ts"
import { completionEndpoint } from "./completion.ts"
import { embeddingEndpoint } from "./embedding.ts"
import { infillEndpoint } from "./infill.ts"
import { metricsEndpoint } from "./metrics.ts"
import { propsEndpoint } from "./props.ts"
import { rerankEndpoint } from "./rerank.ts"
import { slotActionEndpoint, slotsEndpoint } from "./slots.ts"
import { detokenizeEndpoint, tokenizeEndpoint } from "./tokens.ts"

export class LlamaApi extends HttpApiGroup.make("llama", { topLevel: true })
  .add(
    HttpApiEndpoint.get("health", "/health").addSuccess(Schema.Struct({ status: Schema.String })),
  )
  .add(completionEndpoint)
  .add(tokenizeEndpoint)
  .add(detokenizeEndpoint)
  .add(infillEndpoint)
  .add(embeddingEndpoint)
  .add(rerankEndpoint)
  .add(propsEndpoint)
  .add(applyTemplateEndpoint)
  .add(metricsEndpoint)
  .add(slotsEndpoint)
  .add(slotActionEndpoint) {}
