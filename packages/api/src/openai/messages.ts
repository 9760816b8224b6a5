/** Messages, tools and what else a chat of OpenAI's says, as schemas. */
import * as Schema from "effect/Schema"
import { JsonObject, optional } from "../fields.ts"

const ContentPart = Schema.Struct({ type: Schema.String, text: optional(Schema.String) })

const ToolCall = Schema.Struct({
  id: optional(Schema.String),
  type: optional(Schema.Literal("function")),
  function: Schema.Struct({
    name: Schema.String,
    arguments: Schema.Union(Schema.String, JsonObject),
  }),
})

export const Message = Schema.Struct({
  role: Schema.String,
  content: optional(Schema.Union(Schema.String, Schema.Array(ContentPart))),
  reasoning_content: optional(Schema.String),
  tool_calls: optional(Schema.Array(ToolCall)),
  tool_call_id: optional(Schema.String),
  name: optional(Schema.String),
}).annotations({ identifier: "OpenAiMessage" })

export const Tool = Schema.Struct({
  type: Schema.Literal("function"),
  function: Schema.Struct({
    name: Schema.String,
    description: optional(Schema.String),
    parameters: optional(JsonObject),
  }),
}).annotations({ identifier: "OpenAiTool" })

export const ToolChoice = Schema.Union(
  Schema.Literal("auto", "none", "required"),
  Schema.Struct({
    type: Schema.Literal("function"),
    function: Schema.Struct({ name: Schema.String }),
  }),
).annotations({ identifier: "OpenAiToolChoice" })

/** `schema` directly, too, as llama-server takes it. */
export const ResponseFormat = Schema.Struct({
  type: Schema.Literal("text", "json_object", "json_schema"),
  schema: optional(JsonObject),
  json_schema: optional(Schema.Struct({ schema: optional(JsonObject) })),
}).annotations({ identifier: "OpenAiResponseFormat" })

/** The schema of an answer; undefined: it is free. */
export const schemaOf = (
  format: typeof ResponseFormat.Type | undefined,
): Readonly<Record<string, unknown>> | undefined =>
  format === undefined || format.type === "text"
    ? undefined
    : (format.json_schema?.schema ?? format.schema ?? { type: "object" })
