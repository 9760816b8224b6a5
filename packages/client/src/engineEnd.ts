import type { WorkerExit } from "@ggml-rpc/native/worker"
import { EngineEndedError, UnsupportedOpError } from "./errors.ts"

/**
 * ggml ends its process when what only a server could compute, since its state lies there, is an operation which that server
 * cannot; ggml-backend.cpp `ggml_backend_sched_backend_id_from_cur`. RemoteDevices.ts makes the text in brackets.
 */
const CANNOT_RUN =
  /in a buffer \(\w+\[(.+), protocol ([\d.]+)\]\) that cannot run the operation \((\w+)\)/

/** Why the engine is gone. */
export const errorOfEnd = ({
  exitCode,
  signal,
  lastWords,
}: WorkerExit): EngineEndedError | UnsupportedOpError => {
  const said = lastWords.join("\n").trim()
  const [, endpoint, version, op] = CANNOT_RUN.exec(said) ?? []
  if (endpoint !== undefined && version !== undefined && op !== undefined) {
    return new UnsupportedOpError({ endpoint, op, version })
  }
  const how = signal !== null ? `signal ${signal}` : `exit code ${exitCode}`
  return new EngineEndedError({ detail: said === "" ? how : `${how}; it said: ${said}` })
}
