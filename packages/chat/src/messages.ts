/** Messages and tools in the shape of OpenAI's chat completions, which templates are written for. */

export interface ContentPart {
  /** Only `text` can be shown to a model here. */
  readonly type: string
  readonly text?: string | undefined
}

export interface ToolCall {
  readonly id?: string | undefined
  readonly type?: "function" | undefined
  readonly function: {
    readonly name: string
    /** JSON as text, as models write it, or the object itself. */
    readonly arguments: string | Readonly<Record<string, unknown>>
  }
}

export interface ChatMessage {
  /** `system`, `developer`, `user`, `assistant` or `tool`; a template may know more. */
  readonly role: string
  readonly content?: string | ReadonlyArray<ContentPart> | null | undefined
  /** What the model thought before `content`; most templates leave it out of earlier turns. */
  readonly reasoning_content?: string | null | undefined
  readonly tool_calls?: ReadonlyArray<ToolCall> | null | undefined
  /** Of a `tool` message: the call that it answers. */
  readonly tool_call_id?: string | undefined
  /** Of a `tool` message: the function that was called. */
  readonly name?: string | undefined
}

export interface Tool {
  readonly type: "function"
  readonly function: {
    readonly name: string
    readonly description?: string | undefined
    /** JSON schema of an object; without it, or empty, the function takes no arguments. */
    readonly parameters?: Readonly<Record<string, unknown>> | undefined
  }
}

/** Whether the model may, must not or must call a tool, or which one it must. */
export type ToolChoice =
  | "auto"
  | "none"
  | "required"
  | { readonly type: "function"; readonly function: { readonly name: string } }

/** The parameters' schema of a tool, of an object without properties where it has none. */
export const parametersOf = ({
  function: { parameters },
}: Tool): Readonly<Record<string, unknown>> =>
  parameters === undefined || Object.keys(parameters).length === 0
    ? { type: "object", properties: {} }
    : parameters

/** Content as one text: parts are joined by line feeds, as llama-server joins them. */
export const contentText = (content: ChatMessage["content"]): string =>
  typeof content === "string"
    ? content
    : (content ?? [])
        .filter(({ type }) => type === "text")
        .map(({ text }) => text ?? "")
        .join("\n")
