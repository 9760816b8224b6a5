import { type ClusterError, EngineRequestError, errorToData, isClusterError } from "../errors.ts"
import type { EngineEvent } from "./messages.ts"

/** Whether errors that nobody foresaw show where they came from. */
export const isDebug = process.env.GGML_RPC_DEBUG === "1"

/** The end of a request by anything that was thrown while it was at work. */
export const failedBy = (error: unknown): EngineEvent => ({
  type: "failed",
  error: errorToData(toClusterError(error)),
})

const toClusterError = (error: unknown): ClusterError =>
  isClusterError(error)
    ? error
    : new EngineRequestError({
        detail:
          error instanceof Error ? (isDebug ? String(error.stack) : error.message) : String(error),
        reason: "failed",
      })
