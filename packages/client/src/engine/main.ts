/**
 * The engine: a process that runs libllama over remote devices. One synchronous loop: read a request
 * from stdin, do it (blocking), write events to stdout. It ends when its parent does, by closing stdin,
 * or by SIGKILL; the servers free what was theirs when the connections close with it.
 */
import { ggml, io, loadBackends } from "@ggml-rpc/native/bindings/llama"
import { MessageReader, send as sendMessage } from "@ggml-rpc/native/worker/child"
import { type ClusterError, EngineRequestError, errorToData, isClusterError } from "../errors.ts"
import { Engine } from "./Engine.ts"
import type { EngineEvent, EngineRequest } from "./messages.ts"
import { perform } from "./requests/index.ts"

/** What libllama frees after a measurement for a plan it needs again for the load that follows. */
const HEAP_BYTES = 16 * 1024 * 1024

const send = (event: EngineEvent, data?: Uint8Array): void => sendMessage(event, data)

const toClusterError = (error: unknown): ClusterError =>
  isClusterError(error)
    ? error
    : new EngineRequestError({
        detail:
          error instanceof Error
            ? process.env.GGML_RPC_DEBUG
              ? String(error.stack)
              : error.message
            : String(error),
      })

const main = (): void => {
  io().io_watch_parent(0)
  io().io_ignore_terminal_signals()
  io().io_abort_on_signal()
  // Bun makes a piped stdout non-blocking, and a large evaluation would end in EAGAIN half-way.
  io().io_tune_socket(1, 0)
  loadBackends(process.env.GGML_RPC_DEBUG ? 1 : 0)
  ggml().gs_keep_heap(HEAP_BYTES)
  const requests = new MessageReader<EngineRequest>()
  const engine = new Engine()
  for (let request = requests.next(); request !== undefined; request = requests.next()) {
    io().io_clear_abort()
    try {
      perform(engine, request, send)
    } catch (error) {
      send({ type: "failed", error: errorToData(toClusterError(error)) })
    }
  }
  // Freeing models and buffers one by one would only delay what the end of the process does at once.
  process.exit(0)
}

main()
