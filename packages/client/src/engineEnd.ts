import type { WorkerExit } from "@ggml-rpc/native/worker"
import type { EngineRequest } from "./engine/messages.ts"
import { EngineEndedError, UnsupportedOpError } from "./errors.ts"

/**
 * ggml ends its process when what only a server could compute, since its state lies there, is an operation which that server
 * cannot; ggml-backend.cpp `ggml_backend_sched_backend_id_from_cur`. RemoteDevices.ts makes the text in brackets.
 */
const CANNOT_RUN =
  /in a buffer \(\w+\[(.+), protocol ([\d.]+)\]\) that cannot run the operation \((\w+)\)/

/** What ggml says when a condition of its own does not hold, with the place in the sources that were built somewhere. */
const GAVE_UP = /^ggml abort: (?:.*\/)?(\S+:\d+): (.+)$/m

/** Of the source that computes with tensors that are cut, whatever is asked for then. */
const CUTTING = /^ggml-backend-meta\.cpp:/

/**
 * Why the engine is gone.
 *
 * @param during what it was at work on
 */
export const errorOfEnd = (
  { exitCode, signal, lastWords }: WorkerExit,
  during?: EngineRequest,
): EngineEndedError | UnsupportedOpError => {
  const said = lastWords.join("\n").trim()
  const [, endpoint, version, op] = CANNOT_RUN.exec(said) ?? []
  if (endpoint !== undefined && version !== undefined && op !== undefined) {
    return new UnsupportedOpError({ endpoint, op, version })
  }
  const [, place, condition] = GAVE_UP.exec(said) ?? []
  if (condition !== undefined) {
    const path = pathOf(during)
    return new EngineEndedError({
      reason: isCut(during) || CUTTING.test(place!) ? "cannot-cut" : "gave-up",
      detail: `${condition.replace(/\.?$/, "")} (${place})`,
      ...(path === undefined ? {} : { path }),
    })
  }
  if (signal === "SIGKILL") return new EngineEndedError({ reason: "killed", detail: said })
  const how = signal !== null ? `signal ${signal}` : `exit code ${exitCode}`
  return new EngineEndedError({
    reason: "other",
    detail: said === "" ? how : `${how}; it said: ${said}`,
  })
}

/** Whether it was about a model whose tensors are cut, of which not every one can be. */
const isCut = (request: EngineRequest | undefined): boolean =>
  request !== undefined && "placement" in request && request.placement.shares !== undefined

/** The file that a request has libllama read. */
const pathOf = (request: EngineRequest | undefined): string | undefined =>
  request !== undefined && "path" in request ? request.path : undefined
