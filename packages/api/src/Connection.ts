/** The connection of a request. */
import * as Context from "effect/Context"

export class Connection extends Context.Tag("@ggml-rpc/api/Connection")<
  Connection,
  {
    /** Aborts when the client goes away. */
    readonly signal: AbortSignal
    /** An answer takes as long as it takes: nothing ends the connection meanwhile. */
    readonly waitForEver: () => void
    /** Nothing more is computed for it: silence ends it again. */
    readonly waitNoMore: () => void
  }
>() {}
