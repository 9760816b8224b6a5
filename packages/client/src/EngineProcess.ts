/** The process of an engine, and the file that both share. Imports no Effect: a program can start one while it loads its modules. */
import { Worker, type WorkerExit } from "@ggml-rpc/native/worker"
import { Cancels } from "./Cancels.ts"
import type { EngineEvent, Numbered } from "./engine/messages.ts"

/** Lines that are kept for the message of an engine that ends by itself. */
const KEPT_LINES = 20

export interface EngineListener {
  readonly onMessage: (event: Numbered<EngineEvent>, data: Uint8Array) => void
  readonly onLine?: (line: string) => void
  readonly onExit: (exit: WorkerExit) => void
}

export class EngineProcess {
  readonly cancels: Cancels
  readonly worker: Worker<Numbered<EngineEvent>>
  #listener: EngineListener | undefined
  /** What it said before anybody listened. */
  #said: Array<(listener: EngineListener) => void> = []

  /**
   * It gets copies of `descriptors`: connections that it cannot make itself.
   *
   * @throws {EngineStartError} when there is no place for the file
   * @throws {Error} when the system refuses a new process
   */
  constructor(descriptors: ReadonlyArray<number> = []) {
    this.cancels = new Cancels()
    try {
      this.worker = new Worker<Numbered<EngineEvent>>(
        {
          module: "@ggml-rpc/client/engine",
          from: import.meta.dir,
          stdin: "pipe",
          descriptors: [this.cancels.descriptor, ...descriptors],
          lastWordsCount: KEPT_LINES,
        },
        {
          onMessage: (event, data) => this.#tell((to) => to.onMessage(event, data)),
          ...(process.env.GGML_RPC_DEBUG === "1" && {
            onLine: (line) => this.#tell((to) => to.onLine?.(line)),
          }),
          onExit: (exit) => this.#tell((to) => to.onExit(exit)),
        },
      )
    } catch (error) {
      this.cancels.close()
      throw error
    }
  }

  listen(listener: EngineListener): void {
    this.#listener = listener
    for (const tell of this.#said.splice(0)) tell(listener)
  }

  /** Ends it, whatever it is in; what waits for that is the caller's. */
  kill(): Promise<void> {
    // It may be inside a blocking call, where only SIGKILL reaches it.
    this.worker.kill("SIGKILL")
    return this.worker.ended
  }

  #tell(tell: (listener: EngineListener) => void): void {
    if (this.#listener === undefined) this.#said.push(tell)
    else tell(this.#listener)
  }
}

let early: EngineProcess | undefined

/**
 * Starts an engine that the next cluster will take, unless it has connections to hand over. For programs whose own modules take as
 * long to load as an engine's; nothing where it cannot be started, which the cluster then tells. It ends with this process.
 */
export const startEarly = (): void => {
  try {
    early ??= new EngineProcess()
  } catch {
    // See above.
  }
}

/** The engine that was started early, once. */
export const takeEarly = (): EngineProcess | undefined => {
  const taken = early
  early = undefined
  return taken
}

/** Ends it where what it runs was replaced since. */
export const dropEarly = (): void => {
  const dropped = takeEarly()
  if (dropped === undefined) return
  void dropped.kill()
  dropped.cancels.close()
}
