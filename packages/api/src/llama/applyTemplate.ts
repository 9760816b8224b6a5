/** `POST /apply-template`: the prompt that a chat becomes. */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { chatPrompt } from "../chat/prompt.ts"
import { ChatCompletionRequest, chatOf } from "../openai/chatRequest.ts"

export const applyTemplateEndpoint = HttpApiEndpoint.post("applyTemplate", "/apply-template")
  .setPayload(ChatCompletionRequest)
  .addSuccess(Schema.Struct({ prompt: Schema.String }))

export const handleApplyTemplate = ({ payload }: { readonly payload: ChatCompletionRequest }) =>
  chatOf(payload).pipe(
    Effect.flatMap(chatPrompt),
    Effect.map((prompt) => ({ prompt })),
  )
