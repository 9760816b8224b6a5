/** Endpoints as users write them: what `@ggml-rpc/protocol` throws is a value here. */
import * as protocol from "@ggml-rpc/protocol"
import { type Endpoint, EndpointError } from "@ggml-rpc/protocol"
import * as Either from "effect/Either"

const attempt = <A>(parse: () => A): Either.Either<A, EndpointError> =>
  Either.try({
    try: parse,
    catch: (error) => {
      if (error instanceof EndpointError) return error
      throw error
    },
  })

/** The endpoint of a text such as `box:50052` or `[::1]:50052`. */
export const parseEndpoint = (text: string): Either.Either<Endpoint, EndpointError> =>
  attempt(() => protocol.parseEndpoint(text))

/** A comma-separated list; empty parts are dropped, duplicates kept once. */
export const parseEndpoints = (
  text: string,
): Either.Either<ReadonlyArray<Endpoint>, EndpointError> =>
  attempt(() => protocol.parseEndpoints(text))
