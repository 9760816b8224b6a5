/** Why a request is not answered, before a dialect puts it in its own words. */
import * as Schema from "effect/Schema"

/** What went wrong, and the HTTP status of it. */
export const errorStatuses = {
  "invalid-request": 400,
  "prompt-too-long": 400,
  unauthorized: 401,
  forbidden: 403,
  "not-found": 404,
  "too-large": 413,
  "queue-full": 429,
  failed: 500,
  "not-supported": 501,
  unavailable: 503,
} as const

export type ErrorKind = keyof typeof errorStatuses

export class ApiError extends Schema.TaggedError<ApiError>()("ApiError", {
  kind: Schema.Literal(...(Object.keys(errorStatuses) as [ErrorKind, ...Array<ErrorKind>])),
  message: Schema.String,
  /** The field of the request that it is about. */
  param: Schema.optional(Schema.String),
  /** Of a prompt that is too long, in tokens. */
  promptTokenCount: Schema.optional(Schema.Number),
  contextSize: Schema.optional(Schema.Number),
  /** When to come back, where the queue is full. */
  retryAfterSeconds: Schema.optional(Schema.Number),
}) {
  get status(): number {
    return errorStatuses[this.kind]
  }
}

/** A request that cannot be answered as it is; `param` names its field. */
export const invalidRequest = (message: string, param?: string): ApiError =>
  new ApiError({ kind: "invalid-request", message, ...(param === undefined ? {} : { param }) })

export const notSupported = (message: string): ApiError =>
  new ApiError({ kind: "not-supported", message })
