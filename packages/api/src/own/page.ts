/** `GET /`: the page, as one file. */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiSchema from "@effect/platform/HttpApiSchema"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Effect from "effect/Effect"
import { ApiError } from "../ApiError.ts"
import { Serving } from "../Serving.ts"
import { loadPage, type Page } from "./pageSource.ts"

export const pageEndpoint = HttpApiEndpoint.get("page", "/").addSuccess(
  HttpApiSchema.Text({ contentType: "text/html" }),
)

/** Nothing but the page's own script and style runs, whatever a model puts out; it may ask this server alone. */
const headersOf = ({ scriptHash, styleHash }: Page): Readonly<Record<string, string>> => ({
  "content-security-policy": [
    "default-src 'none'",
    `script-src '${scriptHash}'`,
    `style-src '${styleHash}'`,
    "connect-src 'self'",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join("; "),
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cache-control": "no-cache",
})

const noPage = new ApiError({
  kind: "not-found",
  message: "This server shows no page: start it without --no-webui.",
})

const respond = (page: Page) =>
  HttpServerResponse.text(page.html, {
    contentType: "text/html; charset=utf-8",
    headers: headersOf(page),
  })

/** The page is read when it is first asked for. */
export const makePageHandler = Effect.map(
  Effect.cached(Effect.map(Effect.promise(loadPage), respond)),
  (page) => () =>
    Effect.flatMap(Serving, ({ options }) => (options.hasPage ? page : Effect.fail(noPage))),
)
