/** Chats with language models, without the models. See README.md for where to start. */
export * from "./errors.ts"
export { grammarOfSchema } from "./grammar/schema.ts"
export { grammarOfTools, type ToolGrammarOptions } from "./grammar/tools.ts"
export * from "./messages.ts"
export type { OutputDelta } from "./output/calls.ts"
export type { OutputFormat } from "./output/format.ts"
export {
  OutputReader,
  type OutputReaderOptions,
  type ReasoningFormat,
} from "./output/OutputReader.ts"
export type { ToolSyntax } from "./output/syntax.ts"
export { builtinTemplate, builtinTemplateNames } from "./template/builtin.ts"
export {
  ChatTemplate,
  type ChatTemplateOptions,
  type RenderOptions,
} from "./template/ChatTemplate.ts"
export type { TemplateCapabilities } from "./template/capabilities.ts"
export { type ChatModel, modelTemplate } from "./template/modelTemplate.ts"
