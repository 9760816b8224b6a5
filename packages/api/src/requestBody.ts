/** Bodies of requests: as much of one as is allowed, and always JSON. */
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as Effect from "effect/Effect"
import { ApiError } from "./ApiError.ts"

const tooLarge = (maxBytes: number): ApiError =>
  new ApiError({
    kind: "too-large",
    message: `The request is larger than ${maxBytes} bytes, which is as much as this server takes: send less, or start it with a larger --max-request-size.`,
  })

const readText = async (request: Request, maxBytes: number): Promise<string> => {
  if (Number(request.headers.get("content-length") ?? 0) > maxBytes) throw tooLarge(maxBytes)
  const decoder = new TextDecoder()
  let text = ""
  let sizeBytes = 0
  for await (const chunk of request.body ?? []) {
    sizeBytes += chunk.byteLength
    if (sizeBytes > maxBytes) throw tooLarge(maxBytes)
    text += decoder.decode(chunk, { stream: true })
  }
  return text + decoder.decode()
}

/**
 * The request with its body read. Clients that send no type, or curl's, mean JSON too, as llama-server takes it.
 */
export const withBody = (
  request: HttpServerRequest.HttpServerRequest,
  url: string,
  maxBytes: number,
): Effect.Effect<HttpServerRequest.HttpServerRequest, ApiError> => {
  const source = request.source as Request
  if (source.body === null) return Effect.succeed(request.modify({ url }))
  return Effect.map(
    Effect.tryPromise({
      try: () => readText(source, maxBytes),
      catch: (error) =>
        error instanceof ApiError
          ? error
          : new ApiError({
              kind: "invalid-request",
              message: `The request did not come whole: ${String(error)}`,
            }),
    }),
    (body) =>
      HttpServerRequest.fromWeb(
        new Request(source.url, {
          method: source.method,
          headers: { ...request.headers, "content-type": "application/json" },
          body: body === "" ? "{}" : body,
        }),
      ).modify({ url }),
  )
}
