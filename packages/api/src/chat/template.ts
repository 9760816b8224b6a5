/** The chat template of a model. */
import { ChatTemplate } from "@ggml-rpc/chat"
import type { Cluster } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { ApiError } from "../ApiError.ts"

/** Read once, with `source` instead of the model's own if it is given. */
export const chatTemplateOf = (
  { info }: Cluster.ClusterModel,
  source: string | undefined,
): Effect.Effect<ChatTemplate, ApiError> => {
  const toolUse = source === undefined ? info.toolUseChatTemplate : undefined
  const read = (): ChatTemplate =>
    new ChatTemplate({
      source: source ?? info.chatTemplate,
      ...(toolUse === undefined ? {} : { variants: { tool_use: toolUse } }),
      bosText: info.beginText,
      eosText: info.endText,
      addsBos: info.addsBeginToken,
    })
  return Effect.runSync(
    Effect.cached(
      Effect.try({
        try: read,
        catch: (error) =>
          new ApiError({
            kind: "failed",
            message: error instanceof Error ? error.message : String(error),
          }),
      }),
    ),
  )
}
