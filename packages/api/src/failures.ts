/** Failures of any kind as what a client is told. */
import * as HttpApiError from "@effect/platform/HttpApiError"
import * as HttpServerError from "@effect/platform/HttpServerError"
import * as Cause from "effect/Cause"
import { ApiError, invalidRequest } from "./ApiError.ts"

/** @param log gets what could not be foreseen */
export const apiErrorOf = (cause: Cause.Cause<unknown>, log: (line: string) => void): ApiError => {
  const error = Cause.squash(cause)
  if (error instanceof ApiError) return error
  if (error instanceof HttpApiError.HttpApiDecodeError) return decodeError(error)
  if (error instanceof HttpServerError.RouteNotFound) {
    const { method, url } = error.request
    const message = `There is no ${method} ${url.split("?")[0]}.`
    return new ApiError({ kind: "not-found", message })
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
