import { GgufError, type GgufFile, type ReadGgufOptions, readGguf } from "@ggml-rpc/gguf"
import * as Effect from "effect/Effect"

/** `readGguf` as an effect. */
export const loadGguf = (
  path: string,
  options?: ReadGgufOptions,
): Effect.Effect<GgufFile, GgufError> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(readGguf(path, options))
    } catch (error) {
      return error instanceof GgufError ? Effect.fail(error) : Effect.die(error)
    }
  })
