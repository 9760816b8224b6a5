/** Who may ask, and from which web pages. */
import { createHash, timingSafeEqual } from "node:crypto"
import type * as Headers from "@effect/platform/Headers"
import { ApiError } from "./ApiError.ts"

export interface AccessOptions {
  /** Requests must have one of these; none: they need none. */
  readonly apiKeys: ReadonlyArray<string>
  /** The address that is listened on. */
  readonly host: string
  /** Origins of web pages that may ask, `*` for all. None: pages of this server alone. */
  readonly corsOrigins: ReadonlyArray<string>
}

const digest = (text: string): Buffer => createHash("sha256").update(text).digest()

/** As `Authorization: Bearer`, or as Anthropic's clients send it. */
const givenKey = (headers: Headers.Headers): string =>
  (headers.authorization ?? headers["x-api-key"] ?? "").replace(/^Bearer /i, "")

/** A comparison whose time says nothing of how much of a key was right. */
export const checkKey = (
  options: AccessOptions,
  headers: Headers.Headers,
): ApiError | undefined => {
  if (options.apiKeys.length === 0) return undefined
  const given = digest(givenKey(headers))
  if (options.apiKeys.some((key) => timingSafeEqual(digest(key), given))) return undefined
  return new ApiError({
    kind: "unauthorized",
    message: "The API key is missing or wrong: send it as 'Authorization: Bearer KEY'.",
  })
}

/** Headers for a page of another origin; undefined: it may not ask. No request but a page's has an `Origin`. */
export const corsHeaders = (
  { corsOrigins }: AccessOptions,
  headers: Headers.Headers,
): Readonly<Record<string, string>> | undefined => {
  const { origin } = headers
  if (origin === undefined) return {}
  if (corsOrigins.includes("*") || corsOrigins.includes(origin)) {
    return { "access-control-allow-origin": origin, vary: "Origin" }
  }
  return isOwn(origin, headers.host) ? {} : undefined
}

const isOwn = (origin: string, host: string | undefined): boolean =>
  URL.canParse(origin) && new URL(origin).host === host

const isLocal = (name: string): boolean => /^(127\.[\d.]+|\[::1\]|localhost)$/.test(name)

/**
 * A page whose own name leads to 127.0.0.1 is of no other origin. So a server that is for this machine alone, and asks
 * for no key, answers under names of this machine, and those that web pages may come from.
 */
export const checkHost = (
  { host, apiKeys, corsOrigins }: AccessOptions,
  headers: Headers.Headers,
): ApiError | undefined => {
  const given = (headers.host ?? "").replace(/:\d+$/, "")
  const listensLocally = isLocal(host) || host === "::1"
  if (!listensLocally || apiKeys.length > 0 || given === "" || isLocal(given)) return undefined
  if (corsOrigins.some((origin) => origin === "*" || isOwn(origin, headers.host))) return undefined
  return new ApiError({
    kind: "forbidden",
    message: `This server is for this machine, and not known as ${given}: start it with '--cors-origins http://${headers.host}' or an --api-key if it should be.`,
  })
}

export const foreignOrigin = (origin: string | undefined): ApiError =>
  new ApiError({
    kind: "forbidden",
    message: `Pages of ${origin ?? "that origin"} may not ask this server: start it with '--cors-origins ${origin ?? "ORIGIN"}' if they should.`,
  })

/** What a browser is told that asks whether it may. */
export const preflightHeaders: Readonly<Record<string, string>> = {
  "access-control-allow-methods": "GET, POST",
  "access-control-allow-headers": "*, Authorization",
  "access-control-max-age": "600",
}
