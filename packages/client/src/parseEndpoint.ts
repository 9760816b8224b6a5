/** Endpoints as users write them. */
import * as Either from "effect/Either"
import { type Endpoint, EndpointError, formatEndpoint } from "./endpoint.ts"

export const parseEndpoint = (text: string): Either.Either<Endpoint, EndpointError> => {
  const fail = (reason: string) => Either.left(new EndpointError({ text, reason }))
  const trimmed = text.trim()
  if (trimmed === "") return fail("it is empty")
  if (trimmed.includes("://")) return fail("it is a URL")
  const bracketed = trimmed.match(/^\[([^\]]*)\](.*)$/)
  if (bracketed === null && (trimmed.match(/:/g)?.length ?? 0) > 1) {
    return fail("an IPv6 address needs brackets around it")
  }
  const colon = trimmed.lastIndexOf(":")
  const host = bracketed ? bracketed[1]! : colon < 0 ? trimmed : trimmed.slice(0, colon)
  const rest = bracketed ? bracketed[2]! : colon < 0 ? "" : trimmed.slice(colon)
  if (host === "") return fail("the host is missing")
  if (!rest.startsWith(":") || rest === ":") return fail("the port is missing")
  const port = rest.slice(1)
  if (!/^\d+$/.test(port) || Number(port) < 1 || Number(port) > 65535) {
    return fail(`the port '${port}' is not a number from 1 to 65535`)
  }
  return Either.right({ host, port: Number(port) })
}

/** A comma-separated list; empty parts are dropped, duplicates kept once. */
export const parseEndpoints = (
  text: string,
): Either.Either<ReadonlyArray<Endpoint>, EndpointError> => {
  const found = new Map<string, Endpoint>()
  for (const part of text.split(",")) {
    if (part.trim() === "") continue
    const parsed = parseEndpoint(part)
    if (Either.isLeft(parsed)) return Either.left(parsed.left)
    found.set(formatEndpoint(parsed.right), parsed.right)
  }
  return Either.right([...found.values()])
}
