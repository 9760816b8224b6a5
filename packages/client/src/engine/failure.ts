import { type ClusterError, EngineRequestError, isClusterError } from "../errors.ts"

/** Whether errors that nobody foresaw show where they came from. */
export const isDebug = process.env.GGML_RPC_DEBUG === "1"

/** The typed error for anything that was thrown while a request was at work. */
export const toClusterError = (error: unknown): ClusterError =>
  isClusterError(error)
    ? error
    : new EngineRequestError({
        detail:
          error instanceof Error ? (isDebug ? String(error.stack) : error.message) : String(error),
        reason: "failed",
      })
