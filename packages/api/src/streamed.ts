/** Answers that come while the model computes. */
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type { ApiError } from "./ApiError.ts"
import { Connection } from "./Connection.ts"
import { apiErrorOf } from "./failures.ts"
import { Serving } from "./Serving.ts"
import { StreamBody } from "./StreamBody.ts"

const formats = {
  /** Server-sent events. */
  events: { contentType: "text/event-stream", ping: ":\n\n" },
  /** A JSON object a line. */
  lines: { contentType: "application/x-ndjson", ping: undefined },
} as const

/** One server-sent event. */
export const dataEvent = (data: unknown): string => `data: ${JSON.stringify(data)}\n\n`

/** The same with a name. */
export const namedEvent = (name: string, data: unknown): string =>
  `event: ${name}\n${dataEvent(data)}`

/** One JSON object of several. */
export const jsonLine = (data: unknown): string => `${JSON.stringify(data)}\n`

/**
 * The answer begins with the first thing that is written, so that what fails before has a status of its own, or with
 * a ping; what fails later ends it with `onError`'s text. When the client goes, `produce` is interrupted.
 */
export const streamed = (
  format: keyof typeof formats,
  produce: (write: (text: string) => void) => Effect.Effect<void, ApiError, Serving>,
  onError: (error: ApiError) => string,
): Effect.Effect<HttpServerResponse.HttpServerResponse, ApiError, Serving> =>
  Effect.gen(function* () {
    const serving = yield* Serving
    const { readTimeoutMs, pingIntervalMs } = serving.options
    const { contentType, ping } = formats[format]
    const begun = yield* Deferred.make<void, ApiError>()
    let isBegun = false
    let isSilent = true
    const connection = Option.getOrUndefined(yield* Effect.serviceOption(Connection))
    const body = new StreamBody({
      readTimeoutMs,
      onAbandoned: () => fiber.unsafeInterruptAsFork(fiber.id()),
      onTaken: () => connection?.waitNoMore(),
    })
    // A client that goes before the answer has begun takes no stream with it.
    connection?.signal.addEventListener("abort", () => body.abandon(), { once: true })
    const write = (text: string): void => {
      isSilent = false
      body.write(text)
      if (isBegun) return
      isBegun = true
      Deferred.unsafeDone(begun, Effect.void)
    }
    const pings =
      ping === undefined || pingIntervalMs <= 0
        ? undefined
        : setInterval(() => {
            if (isSilent) write(ping)
            isSilent = true
          }, pingIntervalMs)
    const finish = (): void => {
      clearInterval(pings)
      body.end()
      Deferred.unsafeDone(begun, Effect.void)
    }
    const fiber = serving.fork(
      produce(write).pipe(
        Effect.catchAllCause((cause) => {
          if (Cause.isInterruptedOnly(cause)) return Effect.void
          const error = apiErrorOf(cause, serving.log)
          return isBegun
            ? Effect.sync(() => body.write(onError(error)))
            : Deferred.fail(begun, error)
        }),
        Effect.ensuring(Effect.sync(finish)),
        Effect.provideService(Serving, serving),
      ),
    )
    yield* Deferred.await(begun).pipe(Effect.onInterrupt(() => Fiber.interrupt(fiber)))
    return HttpServerResponse.raw(body.stream, {
      contentType,
      headers: { "cache-control": "no-cache", "x-accel-buffering": "no" },
    })
  })
