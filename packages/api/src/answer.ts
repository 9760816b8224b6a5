/** What comes before and after every endpoint: who asks, the body, and errors in the words of the path's dialect. */
import * as HttpApiError from "@effect/platform/HttpApiError"
import type * as HttpApp from "@effect/platform/HttpApp"
import * as HttpServerError from "@effect/platform/HttpServerError"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { ApiError, invalidRequest } from "./ApiError.ts"
import {
  type AccessOptions,
  checkHost,
  checkKey,
  corsHeaders,
  foreignOrigin,
  preflightHeaders,
} from "./access.ts"
import { canonicalPath, dialectOf } from "./dialects.ts"
import { withBody } from "./requestBody.ts"

/** The connection of a request. */
export class Connection extends Context.Tag("@ggml-rpc/api/Connection")<
  Connection,
  {
    /** Turns off the time that a request may take, once it is there: an answer takes as long as it takes. */
    readonly waitForEver: () => void
  }
>() {}

/** A file as it is sent. */
export interface Asset {
  readonly body: Uint8Array
  readonly contentType: string
}

export interface AnswerOptions extends AccessOptions {
  readonly maxRequestBytes: number
  /** Files of a page, by their paths, such as `/`; they need no key. */
  readonly assets: ReadonlyMap<string, Asset>
  /** Of what could not be foreseen. */
  readonly log: (line: string) => void
}

/** Paths that need no key. */
const publicPaths: ReadonlySet<string> = new Set(["/health"])

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
        const asset = request.method === "GET" ? options.assets.get(path) : undefined
        if (asset !== undefined) {
          const { body, contentType } = asset
          return HttpServerResponse.uint8Array(body, { contentType })
        }
        const refused = publicPaths.has(path) ? undefined : checkKey(options, request.headers)
        if (refused !== undefined) return yield* refused
        const whole = yield* withBody(request, path + query, options.maxRequestBytes)
        Option.map(yield* Effect.serviceOption(Connection), ({ waitForEver }) => waitForEver())
        return yield* Effect.provideService(app, HttpServerRequest.HttpServerRequest, whole)
      })
      const response = yield* Effect.catchAllCause(respond, (cause) =>
        Cause.isInterruptedOnly(cause)
          ? Effect.interrupt
          : Effect.succeed(errorResponse(path, toApiError(cause, options.log))),
      )
      return HttpServerResponse.setHeaders(response, cors ?? {})
    })

const errorResponse = (path: string, error: ApiError): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.unsafeJson(dialectOf(path).errorBody(error), {
    status: error.status,
    ...(error.retryAfterSeconds === undefined
      ? {}
      : { headers: { "retry-after": String(error.retryAfterSeconds) } }),
  })

const toApiError = (cause: Cause.Cause<unknown>, log: (line: string) => void): ApiError => {
  const error = Cause.squash(cause)
  if (error instanceof ApiError) return error
  if (error instanceof HttpApiError.HttpApiDecodeError) return decodeError(error)
  if (error instanceof HttpServerError.RouteNotFound) {
    const { method, url } = error.request
    return new ApiError({
      kind: "not-found",
      message: `There is no ${method} ${splitUrl(url)[0]}.`,
    })
  }
  if (error instanceof HttpServerError.RequestError) {
    return invalidRequest(`The request's body is no JSON: ${String(error.cause ?? error.message)}`)
  }
  log(`a request failed unexpectedly: ${Cause.pretty(cause)}`)
  return new ApiError({ kind: "failed", message: "The server failed; its log says how." })
}

/** The field that is wrong, and how; of a field that may be several things, what each of them lacks. */
const decodeError = ({ issues }: HttpApiError.HttpApiDecodeError): ApiError => {
  const told = issues
    // Every field that may be left out may be null instead.
    .filter(({ message }) => !message.startsWith("Expected null"))
    .map(({ path, message }) => (path.length === 0 ? message : `${path.join(".")}: ${message}`))
  const message = [...new Set(told)].slice(0, MAX_ISSUES).join("; ")
  return invalidRequest(message.slice(0, MAX_MESSAGE_LENGTH), issues[0]?.path.join("."))
}

const MAX_ISSUES = 4
/** An issue cites what was given, which may be long. */
const MAX_MESSAGE_LENGTH = 600
