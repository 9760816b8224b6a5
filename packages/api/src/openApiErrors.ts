/** Errors in the OpenAPI document, as each endpoint's dialect has them. */
import * as JSONSchema from "effect/JSONSchema"
import { dialectOf } from "./dialects.ts"

type Responses = Record<string, unknown>

interface Spec {
  paths: Record<string, Record<string, { responses: Responses }>>
  components: { schemas: Record<string, unknown> }
}

/** What this server's own errors are, and those of requests that do not fit their schema, is told to nobody. */
const internal = ["ApiError", "HttpApiDecodeError", "Issue", "PropertyKey"] as const

const errorResponse = (path: string) => ({
  description: "What went wrong, with a status that says so",
  content: {
    "application/json": { schema: inline(JSONSchema.make(dialectOf(path).ErrorBody)) },
  },
})

/** Without what stands for a document of its own: schemas of errors are small, and are put where they are needed. */
const inline = (schema: JSONSchema.JsonSchema7Root): unknown => {
  const { $schema: _, $defs = {}, ...body } = schema
  return "$ref" in body ? ($defs[body.$ref.split("/").at(-1)!] ?? body) : body
}

/** Every endpoint's errors become one `default`. */
export const withErrors = <A extends object>(document: A): A => {
  const spec = document as unknown as Spec
  for (const [path, operations] of Object.entries(spec.paths)) {
    for (const operation of Object.values(operations)) {
      const { "400": _, "500": __, ...responses } = operation.responses
      operation.responses = { ...responses, default: errorResponse(path) }
    }
  }
  for (const name of internal) delete spec.components.schemas[name]
  return document
}
