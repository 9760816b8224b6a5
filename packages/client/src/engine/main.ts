/**
 * The engine: a process that runs libllama over remote devices. One synchronous loop: take requests
 * from stdin, do them (blocking), go on with all texts at work by a batch, write events to stdout. It ends when its parent does, by closing stdin,
 * or by SIGKILL; the servers free what was theirs when the connections close with it.
 */
import { io, ioErrorText, loadBackends } from "@ggml-rpc/native/bindings/llama"
import { MessageReader, sendAll, send as sendMessage } from "@ggml-rpc/native/worker/child"
import { shareWaits } from "../connection/waiting.ts"
import { EngineRequestError } from "../errors.ts"
import { Engine } from "./Engine.ts"
import { failedBy, isDebug } from "./failure.ts"
import type { EngineRequest, Numbered } from "./messages.ts"
import { needsIdle, perform, type Send } from "./requests/index.ts"

/** Descriptor of the file in which the host cancels requests. */
const CANCELS_DESCRIPTOR = 3

const serve = (engine: Engine, request: Numbered<EngineRequest>): void => {
  const { id } = request
  const send: Send = (event, data) => sendMessage({ ...event, id }, data)
  engine.setRunning(id)
  // A refusal of memory was about the request that met it.
  engine.remote?.clearMemoryFailure()
  try {
    if (engine.isCancelled(id)) throw new EngineRequestError({ reason: "cancelled", detail: "" })
    perform(engine, request, send)
  } catch (error) {
    send(failedBy(error))
  } finally {
    engine.setRunning(0)
  }
}

const isReadable = (): boolean => io().io_wait_readable(0, 0) > 0

/**
 * Takes what has come, and waits only when there is nothing to do; until the host closes its end. Requests are served in
 * their order, but those about a text are only begun: between two batches of all texts at work, more is taken.
 */
const run = (engine: Engine): void => {
  const messages = new MessageReader<Numbered<EngineRequest>>()
  const waiting: Array<Numbered<EngineRequest>> = []
  for (;;) {
    const hasWork = waiting.length > 0 || !engine.isIdle
    let message = hasWork ? messages.poll(isReadable) : messages.next()
    if (message === undefined && !hasWork) return
    for (; message !== undefined; message = messages.poll(isReadable)) waiting.push(message)
    while (waiting.length > 0 && (engine.isIdle || !needsIdle(waiting[0]!))) {
      serve(engine, waiting.shift()!)
    }
    engine.step()
  }
}

const main = (): void => {
  io().io_watch_parent(0)
  io().io_ignore_signals()
  const mapped = io().io_map_cancels(CANCELS_DESCRIPTOR)
  if (mapped < 0) throw new Error(`the host's cancels cannot be read: ${ioErrorText(mapped)}`)
  if (!shareWaits(CANCELS_DESCRIPTOR)) throw new Error("the host cannot be told of waits")
  io().io_close(CANCELS_DESCRIPTOR)
  // Bun makes a piped stdout non-blocking, and a large evaluation would end in EAGAIN half-way.
  io().io_tune_socket(1, 0)
  loadBackends(isDebug ? 1 : 0)
  run(new Engine(sendAll))
  // Freeing models and buffers one by one would only delay what the end of the process does at once.
  process.exit(0)
}

main()
