/**
 * The engine: a process that runs libllama over remote devices. One synchronous loop: take requests
 * from stdin, do the first (blocking), write events to stdout. It ends when its parent does, by closing stdin,
 * or by SIGKILL; the servers free what was theirs when the connections close with it.
 */
import { io, ioErrorText, loadBackends } from "@ggml-rpc/native/bindings/llama"
import { MessageReader, send as sendMessage } from "@ggml-rpc/native/worker/child"
import { shareWaits } from "../connection/waiting.ts"
import { type ClusterError, EngineRequestError, errorToData, isClusterError } from "../errors.ts"
import { Engine } from "./Engine.ts"
import type { EngineRequest, Numbered } from "./messages.ts"
import { perform, type Send } from "./requests/index.ts"

const isDebug = process.env.GGML_RPC_DEBUG === "1"

/** Descriptor of the file in which the host cancels requests. */
const CANCELS_DESCRIPTOR = 3

const toClusterError = (error: unknown): ClusterError =>
  isClusterError(error)
    ? error
    : new EngineRequestError({
        detail:
          error instanceof Error ? (isDebug ? String(error.stack) : error.message) : String(error),
        reason: "failed",
      })

const serve = (engine: Engine, request: Numbered<EngineRequest>): void => {
  const { id } = request
  const send: Send = (event, data) => sendMessage({ ...event, id }, data)
  engine.setRunning(id)
  try {
    if (engine.isCancelled) throw new EngineRequestError({ reason: "cancelled", detail: "" })
    perform(engine, request, send)
  } catch (error) {
    send({ type: "failed", error: errorToData(toClusterError(error)) })
  } finally {
    engine.setRunning(0)
  }
}

const isReadable = (): boolean => io().io_wait_readable(0, 0) > 0

/** Takes what has come, and waits only when there is nothing to do; until the host closes its end. */
const run = (engine: Engine): void => {
  const messages = new MessageReader<Numbered<EngineRequest>>()
  const waiting: Array<Numbered<EngineRequest>> = []
  for (;;) {
    let message = waiting.length === 0 ? messages.next() : messages.poll(isReadable)
    if (message === undefined && waiting.length === 0) return
    for (; message !== undefined; message = messages.poll(isReadable)) waiting.push(message)
    serve(engine, waiting.shift()!)
  }
}

const main = (): void => {
  io().io_watch_parent(0)
  io().io_ignore_terminal_signals()
  const mapped = io().io_map_cancels(CANCELS_DESCRIPTOR)
  if (mapped < 0) throw new Error(`the host's cancels cannot be read: ${ioErrorText(mapped)}`)
  if (!shareWaits(CANCELS_DESCRIPTOR)) throw new Error("the host cannot be told of waits")
  io().io_close(CANCELS_DESCRIPTOR)
  // Bun makes a piped stdout non-blocking, and a large evaluation would end in EAGAIN half-way.
  io().io_tune_socket(1, 0)
  loadBackends(isDebug ? 1 : 0)
  run(new Engine())
  // Freeing models and buffers one by one would only delay what the end of the process does at once.
  process.exit(0)
}

main()
