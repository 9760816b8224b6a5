/** The template of a model that is loaded. */
import { ChatTemplate } from "./ChatTemplate.ts"

/** What is known of a model; `ModelInfo` of @ggml-rpc/native has it. */
export interface ChatModel {
  readonly chatTemplate: string | undefined
  readonly toolUseChatTemplate: string | undefined
  readonly beginText: string
  readonly endText: string
  readonly addsBeginToken: boolean
}

/**
 * @param source instead of the model's own
 * @throws {TemplateSyntaxError}
 */
export const modelTemplate = (model: ChatModel, source?: string): ChatTemplate => {
  const toolUse = source === undefined ? model.toolUseChatTemplate : undefined
  return new ChatTemplate({
    source: source ?? model.chatTemplate,
    ...(toolUse === undefined ? {} : { variants: { tool_use: toolUse } }),
    bosText: model.beginText,
    eosText: model.endText,
    addsBos: model.addsBeginToken,
  })
}
