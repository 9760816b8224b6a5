/** The host's side of an engine process: starts it, talks to it, ends it with its scope. */
import { smallHeap, Worker, type WorkerExit } from "@ggml-rpc/native/worker"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type * as Scope from "effect/Scope"
import type { EngineEvent, EngineRequest } from "./engine/messages.ts"
import { isFinal } from "./engine/messages.ts"
import { type ClusterError, EngineEndedError, errorFromData } from "./errors.ts"

/** The final event of a request, by the request's type. */
type FinalOf = {
  open: EngineEvent & { type: "opened" }
  memory: EngineEvent & { type: "memory" }
  measure: EngineEvent & { type: "measured" }
  load: EngineEvent & { type: "loaded" }
  unload: EngineEvent & { type: "unloaded" }
  tokenize: EngineEvent & { type: "tokens" }
  generate: EngineEvent & { type: "generated" }
  evaluate: EngineEvent & { type: "evaluated" }
}

/** Requests that get an answer. */
export type AnsweredRequest = Exclude<EngineRequest, { type: "cancel" }>

/** A final event, and the bytes that followed it. */
export interface Answer<R extends AnsweredRequest> {
  readonly event: FinalOf[R["type"]]
  readonly data: Uint8Array
}

export interface EngineHost {
  /**
   * Sends a request and waits for its final event; other events go to `onEvent`. Requests wait for
   * each other. Interrupting one that waits drops it; interrupting the one that runs leaves the engine
   * at work, and later requests wait for its end: see `cancel`.
   */
  readonly request: <R extends AnsweredRequest>(
    request: R,
    onEvent?: (event: EngineEvent) => void,
  ) => Effect.Effect<Answer<R>, ClusterError>
  /**
   * The same without a fiber that waits: `onEnd` gets what `request` would end with. The call that is returned gives
   * the request up and tells whether it was still waiting: then it is dropped and nothing more is called, else the
   * engine is at work on it, and `onEnd` is still to come.
   */
  readonly begin: <R extends AnsweredRequest>(
    request: R,
    onEvent: (event: EngineEvent) => void,
    onEnd: (end: Either.Either<Answer<R>, ClusterError>) => void,
  ) => () => boolean
  /**
   * Stops what the engine is doing, if anything: a load at the next tensor, a generation at the next token or batch
   * of the prompt. A stopped load fails, a stopped generation ends with the reason `cancelled`.
   */
  readonly cancel: Effect.Effect<void>
  /**
   * Waits for the end of work that nobody needs any more, whatever its outcome; for a finalizer. An
   * engine that is not done after some seconds is stuck in a call to a server that hangs: it is killed.
   */
  readonly settle: <A, E>(work: Effect.Effect<A, E>) => Effect.Effect<void>
  /** Process id, for supervision. */
  readonly pid: number
}

/** Lines that are kept for the message of an engine that ends by itself. */
const KEPT_LINES = 20

/** A batch of a prompt on slow servers may take as long; what waits for it was given up on. */
const SETTLE_PATIENCE_MS = 5000

/**
 * The engine's JavaScript is short and its heap small. What the runtime would do to make more of both faster would
 * take the processor from a server on this machine.
 */
const engineSettings = {
  ...smallHeap,
  // The optimizing compilers (JavaScriptCore's DFG and FTL): 0.1 s of CPU in the first second, for tokens that take
  // just as long.
  BUN_JSC_useDFGJIT: "0",
}

/** Starts an engine process; closing the scope kills it, which closes its connections. */
export const make: Effect.Effect<EngineHost, never, Scope.Scope> = Effect.gen(function* () {
  const session = yield* Effect.acquireRelease(
    Effect.sync(() => new EngineSession()),
    ({ worker }) =>
      Effect.promise(() => {
        // The engine may be inside a blocking call, where only SIGKILL reaches it.
        worker.kill("SIGKILL")
        return worker.ended
      }),
  )
  const { worker } = session
  return {
    pid: worker.pid,
    cancel: Effect.sync(() => {
      if (session.isBusy) worker.kill("SIGUSR2")
    }),
    settle: (work) =>
      // Finalizers cannot be interrupted, and neither could what they wait for.
      Effect.interruptible(Effect.ignore(work)).pipe(
        Effect.timeoutTo({
          duration: SETTLE_PATIENCE_MS,
          onSuccess: () => Effect.void,
          onTimeout: () => Effect.sync(() => worker.kill("SIGKILL")),
        }),
        Effect.flatten,
      ),
    request: <R extends AnsweredRequest>(request: R, onEvent?: (event: EngineEvent) => void) =>
      Effect.async<Answer<R>, ClusterError>((resume) => {
        const job = jobOf(request, onEvent ?? ignoreEvent, resume)
        session.submit(job)
        return Effect.sync(() => session.abandon(job))
      }),
    begin: (request, onEvent, onEnd) => {
      const job = jobOf(request, onEvent, onEnd)
      session.submit(job)
      return () => session.abandon(job)
    },
  }
})

/** A request and who waits for it. */
interface Job {
  readonly request: AnsweredRequest
  onEvent: (event: EngineEvent) => void
  readonly onEnd: (end: Either.Either<AnyAnswer, ClusterError>) => void
}

interface AnyAnswer {
  readonly event: EngineEvent
  readonly data: Uint8Array
}

const jobOf = <R extends AnsweredRequest>(
  request: R,
  onEvent: (event: EngineEvent) => void,
  onEnd: (end: Either.Either<Answer<R>, ClusterError>) => void,
): Job => ({
  request,
  onEvent,
  // The engine answers a request with the final event of its type.
  onEnd: (end) => onEnd(end as Either.Either<Answer<R>, ClusterError>),
})

const ignoreEvent = (): void => {}

/** Sends one request at a time, and hands the engine's events to who waits for them. */
class EngineSession {
  readonly worker: Worker<EngineEvent>
  private running: Job | undefined
  private readonly waiting: Array<Job> = []
  private ended: EngineEndedError | undefined

  constructor() {
    this.worker = new Worker<EngineEvent>(
      {
        module: "@ggml-rpc/client/engine",
        from: import.meta.dir,
        stdin: "pipe",
        settings: engineSettings,
        lastWordsCount: KEPT_LINES,
      },
      {
        onMessage: (event, data) => this.dispatch(event, data),
        ...(process.env.GGML_RPC_DEBUG && { onLine: showLine }),
        onExit: (exit) => this.end(exit),
      },
    )
  }

  private send(request: EngineRequest): void {
    this.worker.write(request)
  }

  get isBusy(): boolean {
    return this.running !== undefined
  }

  submit(job: Job): void {
    if (this.ended !== undefined) {
      job.onEnd(Either.left(this.ended))
    } else if (this.running !== undefined) {
      this.waiting.push(job)
    } else {
      this.running = job
      this.send(job.request)
    }
  }

  /** Nobody waits for this one any more; whether it was dropped before it began. */
  abandon(job: Job): boolean {
    const index = this.waiting.indexOf(job)
    if (index >= 0) this.waiting.splice(index, 1)
    job.onEvent = ignoreEvent
    return index >= 0
  }

  /** Ends the running job; the next one is sent first, so that the engine has it while we go on. */
  private finish(end: Either.Either<AnyAnswer, ClusterError>): void {
    const done = this.running
    this.running = this.waiting.shift()
    if (this.running !== undefined) this.send(this.running.request)
    done?.onEnd(end)
  }

  private end({ exitCode, signal, lastWords }: WorkerExit): void {
    const said = lastWords.join("\n").trim()
    const how = signal !== null ? `signal ${signal}` : `exit code ${exitCode}`
    this.ended = new EngineEndedError({ detail: said === "" ? how : `${how}; it said: ${said}` })
    while (this.running !== undefined) this.finish(Either.left(this.ended))
  }

  private dispatch(event: EngineEvent, data: Uint8Array): void {
    if (!isFinal(event)) {
      this.running?.onEvent(event)
    } else if (event.type === "failed") {
      this.finish(Either.left(errorFromData(event.error)))
    } else {
      this.finish(Either.right({ event, data }))
    }
  }
}

const showLine = (line: string): void => {
  process.stderr.write(`${line}\n`)
}
