/** The chat template of a model. */
import { type ChatTemplate, modelTemplate } from "@ggml-rpc/chat"
import type { Cluster } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { ApiError } from "../ApiError.ts"

/** Read once, with `source` instead of the model's own if it is given. */
export const chatTemplateOf = (
  { info }: Cluster.ClusterModel,
  source: string | undefined,
): Effect.Effect<ChatTemplate, ApiError> =>
  Effect.runSync(
    Effect.cached(
      Effect.try({
        try: () => modelTemplate(info, source),
        catch: (error) =>
          new ApiError({
            kind: "failed",
            message: error instanceof Error ? error.message : String(error),
          }),
      }),
    ),
  )
