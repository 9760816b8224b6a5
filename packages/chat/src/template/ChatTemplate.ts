/** Turns messages into the text that a model was trained to continue, by the model's own template. */
import { MessageError } from "../errors.ts"
import {
  type ChatMessage,
  contentText,
  type Tool,
  type ToolCall,
  type ToolChoice,
} from "../messages.ts"
import { type OutputFormat, outputFormatOf } from "../output/format.ts"
import { builtinTemplate } from "./builtin.ts"
import { capabilitiesOf, type TemplateCapabilities } from "./capabilities.ts"
import { Jinja } from "./Jinja.ts"
import { mendedSource } from "./mended.ts"
import { mergeSystemMessage, showToolMessages, withToolInstructions } from "./polyfills.ts"
import { strftime } from "./strftime.ts"

export interface ChatTemplateOptions {
  /** `tokenizer.chat_template` of the model; without it, chatml. */
  readonly source?: string | undefined
  /** `tokenizer.chat_template.NAME`, by NAME; `tool_use` is taken where there are tools. */
  readonly variants?: Readonly<Record<string, string>> | undefined
  /** Text of the token that begins a text, which templates call `bos_token`. */
  readonly bosText?: string | undefined
  /** Text of the token that ends a text. */
  readonly eosText?: string | undefined
  /** Whether tokenizing the prompt puts the first token before it: then it is not rendered as well. Default: false. */
  readonly addsBos?: boolean | undefined
}

export interface RenderOptions {
  readonly messages: ReadonlyArray<ChatMessage>
  readonly tools?: ReadonlyArray<Tool> | undefined
  /** `none` leaves the tools out. Default: `auto`. */
  readonly toolChoice?: ToolChoice | undefined
  /** Whether the text ends where the assistant's answer begins. Default: true. */
  readonly addGenerationPrompt?: boolean | undefined
  /** For templates that can be told not to let the model think. Default: true. */
  readonly enableThinking?: boolean | undefined
  /** More variables, which some templates look at. */
  readonly kwargs?: Readonly<Record<string, unknown>> | undefined
  /** What templates take for today. Default: now. */
  readonly now?: Date | undefined
}

interface Variant {
  readonly jinja: Jinja
  readonly capabilities: TemplateCapabilities
  readonly format: OutputFormat
}

export class ChatTemplate {
  readonly #options: ChatTemplateOptions
  readonly #default: Variant
  readonly #toolUse: Variant

  /** @throws {TemplateSyntaxError} */
  constructor(options: ChatTemplateOptions = {}) {
    this.#options = options
    const { source, variants: { tool_use: toolUse } = {} } = options
    this.#default = variantOf(source ?? toolUse ?? builtinTemplate("chatml"))
    this.#toolUse = toolUse === undefined ? this.#default : variantOf(toolUse)
  }

  /** The Jinja source that is rendered where there are no tools. */
  get source(): string {
    return this.#default.jinja.source
  }

  /** What the template does by itself; the rest is made up for when it is rendered. */
  get capabilities(): TemplateCapabilities {
    return this.#default.capabilities
  }

  /** How models of this template write what they think and which tools they call. */
  formatFor(tools?: ReadonlyArray<Tool>): OutputFormat {
    return this.#variant(tools ?? []).format
  }

  /**
   * The prompt. Content parts other than text are refused.
   *
   * @throws {MessageError}
   * @throws {TemplateRefusalError} when the template itself refuses the messages
   * @throws {TemplateRenderError}
   */
  render(options: RenderOptions): string {
    const { toolChoice, addGenerationPrompt = true, enableThinking = true, kwargs } = options
    const now = options.now ?? new Date()
    const tools = toolChoice === "none" ? [] : (options.tools ?? [])
    const variant = this.#variant(tools)
    const { capabilities, jinja } = variant
    const { bosText = "", eosText = "", addsBos = false } = this.#options
    const isToolListGiven =
      capabilities.needsToolList || (tools.length > 0 && capabilities.describesTools)
    const text = jinja.render(
      {
        bos_token: bosText,
        eos_token: eosText,
        enable_thinking: enableThinking,
        date_string: strftime(now, "%d %b %Y"),
        datetime: strftime(now, "%b %d %Y"),
        messages: messagesFor(variant, options.messages, tools),
        ...(isToolListGiven ? { tools } : {}),
        ...(addGenerationPrompt ? { add_generation_prompt: true } : {}),
        ...kwargs,
      },
      now,
    )
    return addsBos && bosText !== "" && text.startsWith(bosText) ? text.slice(bosText.length) : text
  }

  #variant(tools: ReadonlyArray<Tool>): Variant {
    return tools.length > 0 ? this.#toolUse : this.#default
  }
}

const variantOf = (source: string): Variant => {
  const jinja = new Jinja(mendedSource(source))
  const capabilities = capabilitiesOf(jinja)
  return { jinja, capabilities, format: outputFormatOf(source, capabilities) }
}

/** Messages as this template takes them; what it lacks is said in words that it has. */
const messagesFor = (
  { jinja, capabilities, format }: Variant,
  messages: ReadonlyArray<ChatMessage>,
  tools: ReadonlyArray<Tool>,
): ReadonlyArray<unknown> => {
  checkMessages(messages)
  // OpenAI's own template tells developer from system; no other knows the role.
  let given = jinja.source.includes("<|channel|>")
    ? messages
    : messages.map((message) =>
        message.role === "developer" ? { ...message, role: "system" } : message,
      )
  if (tools.length > 0 && !capabilities.describesTools)
    given = withToolInstructions(given, tools, format.tools)
  if (!capabilities.showsToolCalls || !capabilities.showsToolResults) {
    given = showToolMessages(given, capabilities, format.tools)
  }
  if (!capabilities.hasSystemRole) given = mergeSystemMessage(given)
  return given.map((message, index) => messageFor(capabilities, message, index))
}

const checkMessages = (messages: ReadonlyArray<ChatMessage>): void => {
  messages.forEach(({ content, tool_calls }, index) => {
    const path = `messages[${index}]`
    if (content === undefined && tool_calls === undefined) {
      throw new MessageError({ path, problem: "has neither content nor tool_calls" })
    }
    if (typeof content === "string" || content === null || content === undefined) return
    content.forEach((part, at) => {
      if (part.type === "text" && typeof part.text === "string") return
      const problem =
        part.type === "text"
          ? "has no text"
          : `is of type '${part.type}': only text can be read here`
      throw new MessageError({ path: `${path}.content[${at}]`, problem })
    })
  })
}

const messageFor = (
  { takesText, takesParts, takesObjectArguments }: TemplateCapabilities,
  message: ChatMessage,
  index: number,
): unknown => {
  const { content, tool_calls: calls } = message
  let shown: unknown = content ?? ""
  if (typeof content === "string" && !takesText) shown = [{ type: "text", text: content }]
  if (typeof content !== "string" && !takesParts) shown = contentText(content)
  const defined = Object.fromEntries(
    Object.entries(message).filter(([, value]) => value !== undefined && value !== null),
  )
  if (calls === undefined || calls === null) return { ...defined, content: shown }
  const path = `messages[${index}].tool_calls`
  return {
    ...defined,
    content: shown,
    tool_calls: calls.map((call, at) => toolCallFor(call, takesObjectArguments, `${path}[${at}]`)),
  }
}

const toolCallFor = (call: ToolCall, asObject: boolean, path: string): unknown => {
  const { name, arguments: given } = call.function
  const id = call.id === undefined ? {} : { id: call.id }
  const isText = typeof given === "string"
  if (isText !== asObject) {
    return { ...id, type: "function", function: { name, arguments: given } }
  }
  try {
    const args = isText ? JSON.parse(given || "{}") : JSON.stringify(given)
    return { ...id, type: "function", function: { name, arguments: args } }
  } catch {
    throw new MessageError({ path: `${path}.function.arguments`, problem: "is no JSON" })
  }
}
