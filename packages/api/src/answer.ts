/** What comes before and after every endpoint: who asks, the body, and errors in the words of the path's dialect. */
import type * as HttpApp from "@effect/platform/HttpApp"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { ApiError } from "./ApiError.ts"
import {
  type AccessOptions,
  checkHost,
  checkKey,
  corsHeaders,
  foreignOrigin,
  preflightHeaders,
} from "./access.ts"
import { Connection } from "./Connection.ts"
import { canonicalPath, dialectOf } from "./dialects.ts"
import { apiErrorOf } from "./failures.ts"
import { withBody } from "./requestBody.ts"

export interface AnswerOptions extends AccessOptions {
  readonly maxRequestBytes: number
  /** Of what could not be foreseen. */
  readonly log: (line: string) => void
}

/** Paths that need no key. */
const publicPaths: ReadonlySet<string> = new Set(["/", "/health"])

const splitUrl = (url: string): readonly [path: string, query: string] => {
  const at = url.indexOf("?")
  return at < 0 ? [url, ""] : [url.slice(0, at), url.slice(at)]
}

export const answer =
  (options: AnswerOptions) =>
  (app: HttpApp.Default<unknown>): HttpApp.Default =>
    Effect.gen(function* () {
      const request = yield* HttpServerRequest.HttpServerRequest
      const [given, query] = splitUrl(request.url)
      const path = canonicalPath(given)
      const cors = corsHeaders(options, request.headers)
      const respond = Effect.gen(function* () {
        const misled = checkHost(options, request.headers)
        if (misled !== undefined) return yield* misled
        if (cors === undefined) return yield* foreignOrigin(request.headers.origin)
        if (request.method === "OPTIONS") {
          return HttpServerResponse.empty({ status: 204, headers: preflightHeaders })
        }
        const refused = publicPaths.has(path) ? undefined : checkKey(options, request.headers)
        if (refused !== undefined) return yield* refused
        const whole = yield* withBody(request, path + query, options.maxRequestBytes)
        const connection = yield* Effect.serviceOption(Connection)
        Option.map(connection, ({ waitForEver }) => waitForEver())
        return yield* Effect.provideService(app, HttpServerRequest.HttpServerRequest, whole)
      })
      const response = yield* Effect.catchAllCause(respond, (cause) =>
        Cause.isInterruptedOnly(cause)
          ? Effect.interrupt
          : Effect.succeed(errorResponse(path, apiErrorOf(cause, options.log))),
      )
      // A stream says by itself when it is over.
      if (response.body._tag !== "Raw") {
        Option.map(yield* Effect.serviceOption(Connection), ({ waitNoMore }) => waitNoMore())
      }
      return HttpServerResponse.setHeaders(response, cors ?? {})
    })

const errorResponse = (path: string, error: ApiError): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.unsafeJson(dialectOf(path).errorBody(error), {
    status: error.status,
    ...(error.retryAfterSeconds === undefined
      ? {}
      : { headers: { "retry-after": String(error.retryAfterSeconds) } }),
  })
