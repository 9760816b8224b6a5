/** A chat as all dialects mean it, once they have been read. */
import type { ChatMessage, ReasoningFormat, Tool, ToolChoice } from "@ggml-rpc/chat"
import type { Cluster } from "@ggml-rpc/client"

export interface ChatRequest {
  readonly messages: ReadonlyArray<ChatMessage>
  readonly tools?: ReadonlyArray<Tool> | undefined
  readonly toolChoice?: ToolChoice | undefined
  /** Whether one answer may call several tools: true. */
  readonly parallelToolCalls?: boolean | undefined
  /** JSON schema that the answer follows. */
  readonly schema?: Readonly<Record<string, unknown>> | undefined
  /** Whether the model may think before it answers, where its template asks: true. */
  readonly enableThinking?: boolean | undefined
  readonly reasoningFormat?: ReasoningFormat | undefined
  /** More variables of the template. */
  readonly templateArguments?: Readonly<Record<string, unknown>> | undefined
  /** Answers that are wanted: 1. */
  readonly count?: number | undefined
  readonly options: Cluster.GenerateOptions
}
