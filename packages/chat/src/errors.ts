/** What can be wrong with a chat, a class for each condition that a caller can act on. */
import * as Data from "effect/Data"

/** A chat template is no Jinja, or uses what the interpreter does not know. */
export class TemplateSyntaxError extends Data.TaggedError("TemplateSyntaxError")<{
  readonly reason: string
}> {
  override get message() {
    return `The chat template cannot be read: ${this.reason}. Use another with --chat-template NAME or --chat-template-file FILE; 'chatml' suits many models.`
  }
}

/** There is no built-in template of this name. */
export class UnknownTemplateError extends Data.TaggedError("UnknownTemplateError")<{
  readonly name: string
  readonly names: ReadonlyArray<string>
}> {
  override get message() {
    return `There is no built-in chat template '${this.name}'. There are: ${this.names.join(", ")}.`
  }
}

/** A template refuses these messages, by `raise_exception`; `reason` is its own text. */
export class TemplateRefusalError extends Data.TaggedError("TemplateRefusalError")<{
  readonly reason: string
}> {
  override get message() {
    return `The model's chat template refuses these messages: ${this.reason}`
  }
}

/** A template fails on these messages. */
export class TemplateRenderError extends Data.TaggedError("TemplateRenderError")<{
  readonly reason: string
}> {
  override get message() {
    return `The chat template fails on these messages: ${this.reason}. Use another with --chat-template NAME or --chat-template-file FILE.`
  }
}

/** A message cannot be shown to a model; `path` says which, such as `messages[2].content[0]`. */
export class MessageError extends Data.TaggedError("MessageError")<{
  readonly path: string
  readonly problem: string
}> {
  override get message() {
    return `${this.path} ${this.problem}.`
  }
}

/** A JSON schema is broken, or asks for what a grammar cannot say; `path` is its place in the schema. */
export class SchemaError extends Data.TaggedError("SchemaError")<{
  /** JSON path, such as `$.properties.age.minimum`. */
  readonly path: string
  readonly problem: string
}> {
  override get message() {
    return `The JSON schema cannot be followed: ${this.path} ${this.problem}.`
  }
}

export type ChatError =
  | TemplateSyntaxError
  | UnknownTemplateError
  | TemplateRefusalError
  | TemplateRenderError
  | MessageError
  | SchemaError
