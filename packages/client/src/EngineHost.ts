/** The host's side of an engine process: starts it, talks to it, ends it with its scope. */
import type { Worker, WorkerExit } from "@ggml-rpc/native/worker"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type * as Scope from "effect/Scope"
import { CANCEL_SLOTS, type Cancels, type Wait } from "./Cancels.ts"
import { dropEarly, EngineProcess, takeEarly } from "./EngineProcess.ts"
import type { EngineEvent, EngineRequest, Numbered } from "./engine/messages.ts"
import { isFinal } from "./engine/messages.ts"
import { errorOfEnd } from "./engineEnd.ts"
import {
  type ClusterError,
  type EngineEndedError,
  EngineStartError,
  errorFromData,
  type UnsupportedOpError,
} from "./errors.ts"

/** The final event of a request, by the request's type. */
type FinalOf = {
  open: EngineEvent & { type: "opened" }
  memory: EngineEvent & { type: "memory" }
  traffic: EngineEvent & { type: "traffic" }
  speeds: EngineEvent & { type: "speeds" }
  computeSpeeds: EngineEvent & { type: "computeSpeeds" }
  measure: EngineEvent & { type: "measured" }
  load: EngineEvent & { type: "loaded" }
  unload: EngineEvent & { type: "unloaded" }
  tokenize: EngineEvent & { type: "tokens" }
  detokenize: EngineEvent & { type: "text" }
  generate: EngineEvent & { type: "generated" }
  evaluate: EngineEvent & { type: "evaluated" }
  embed: EngineEvent & { type: "embedded" }
  slots: EngineEvent & { type: "slots" }
  slot: EngineEvent & { type: "slot" }
}

/** A final event, and the bytes that followed it. */
export interface Answer<R extends EngineRequest> {
  readonly event: FinalOf[R["type"]]
  readonly data: Uint8Array
}

export interface EngineHost {
  /**
   * Sends a request and waits for its final event; other events go to `onEvent`. The engine begins them in the order in
   * which they came, and texts are at work together. Interrupting cancels the request and waits for nothing: what needs the
   * engine for itself waits until it has noticed.
   */
  readonly request: <R extends EngineRequest>(
    request: R,
    onEvent?: (event: EngineEvent) => void,
  ) => Effect.Effect<Answer<R>, ClusterError>
  /**
   * The same without a fiber that waits: `onEnd` gets what `request` would end with. The call that is returned cancels
   * the request, whose events nobody hears of then, and tells whether it was waiting for others: else the engine is at work
   * on it, and `onEnd` is still to come. A load stops at the next tensor, other work at the next batch.
   * A stopped generation ends with the reason `cancelled`, everything else fails.
   */
  readonly begin: <R extends EngineRequest>(
    request: R,
    onEvent: (event: EngineEvent) => void,
    onEnd: (end: Either.Either<Answer<R>, ClusterError>) => void,
  ) => () => boolean
  /** Cancels everything that is about the model: its load, and all that is asked of it. */
  readonly cancelModel: Effect.Effect<void>
  /**
   * Waits for the end of work that nobody needs any more, whatever its outcome; for a finalizer. An
   * engine that is not done after some seconds is stuck in a call to a server that hangs: it is killed.
   */
  readonly settle: <A, E>(work: Effect.Effect<A, E>) => Effect.Effect<void>
  /** Process id, for supervision. */
  readonly pid: number
  /** Which server the engine waits for now. */
  readonly waiting: () => Wait
  /** From now on hears what makes a model slower than it could be, each sentence once. */
  readonly listenToNotes: (onNote: (text: string) => void) => void
}

/** A batch of a prompt on slow servers may take as long; what waits for it was given up on. */
const SETTLE_PATIENCE_MS = 5000

/** What the engine has the first of `descriptors` as; the others follow. Before it are those that every engine gets. */
export const FIRST_DESCRIPTOR = 4

/**
 * Starts an engine process; closing the scope kills it, which closes its connections. It gets copies of `descriptors`:
 * connections that it cannot make itself.
 */
export const make = (
  descriptors: readonly number[] = [],
): Effect.Effect<EngineHost, EngineStartError, Scope.Scope> =>
  Effect.gen(function* () {
    const engine = yield* Effect.acquireRelease(
      Effect.try({ try: () => engineWith(descriptors), catch: startError }),
      (process) =>
        Effect.promise(() => process.kill()).pipe(
          Effect.ensuring(Effect.sync(() => process.cancels.close())),
        ),
    )
    const { worker, cancels } = engine
    const session = new EngineSession(engine)
    return {
      pid: worker.pid,
      waiting: () => cancels.waiting(),
      listenToNotes: (onNote) => {
        session.onNote = onNote
      },
      cancelModel: Effect.sync(() => session.cancelModel()),
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
      request: <R extends EngineRequest>(request: R, onEvent?: (event: EngineEvent) => void) =>
        Effect.async<Answer<R>, ClusterError>((resume) => {
          const job = jobOf(request, onEvent ?? ignoreEvent, resume)
          session.submit(job)
          return Effect.sync(() => session.cancel(job))
        }),
      begin: (request, onEvent, onEnd) => {
        const job = jobOf(request, onEvent, onEnd)
        session.submit(job)
        return () => session.cancel(job)
      },
    }
  })

/** One that has no connections to get may have been started already. */
const engineWith = (descriptors: readonly number[]): EngineProcess => {
  if (descriptors.length > 0) dropEarly()
  return takeEarly() ?? new EngineProcess(descriptors)
}

const startError = (cause: unknown): EngineStartError =>
  cause instanceof EngineStartError
    ? cause
    : new EngineStartError({ detail: cause instanceof Error ? cause.message : String(cause) })

/** A request and who waits for it. */
interface Job {
  readonly request: EngineRequest
  /** 0 before it is sent. */
  id: number
  /** To be cancelled as soon as it is sent. */
  isUnwanted: boolean
  onEvent: (event: EngineEvent) => void
  onEnd: (end: Either.Either<AnyAnswer, ClusterError>) => void
}

interface AnyAnswer {
  readonly event: EngineEvent
  readonly data: Uint8Array
}

const jobOf = <R extends EngineRequest>(
  request: R,
  onEvent: (event: EngineEvent) => void,
  onEnd: (end: Either.Either<Answer<R>, ClusterError>) => void,
): Job => ({
  request,
  id: 0,
  isUnwanted: false,
  onEvent,
  // The engine answers a request with the final event of its type.
  onEnd: (end) => onEnd(end as Either.Either<Answer<R>, ClusterError>),
})

const ignoreEvent = (): void => {}

const modelRequests: ReadonlySet<EngineRequest["type"]> = new Set([
  "load",
  "tokenize",
  "detokenize",
  "generate",
  "evaluate",
  "embed",
  "slots",
  "slot",
])

/** Numbers requests, sends them at once, and hands the engine's events to who waits for them. */
class EngineSession {
  readonly worker: Worker<Numbered<EngineEvent>>
  private readonly cancels: Cancels
  private lastId = 0
  /** Sent and not answered, by id, oldest first: the engine is at work on the first. */
  private readonly outstanding = new Map<number, Job>()
  /** 1 where a cancel's place is that of an outstanding request: ids are told apart by their places. */
  private readonly places = new Uint8Array(CANCEL_SLOTS)
  /** Held back until a place is free. */
  private readonly held: Array<Job> = []
  private ended: EngineEndedError | UnsupportedOpError | undefined
  onNote: (text: string) => void = () => {}

  constructor(engine: EngineProcess) {
    this.cancels = engine.cancels
    this.worker = engine.worker
    engine.listen({
      onMessage: (event, data) => this.dispatch(event, data),
      onLine: showLine,
      onExit: (exit) => this.end(exit),
    })
  }

  submit(job: Job): void {
    if (this.ended !== undefined) {
      job.onEnd(Either.left(this.ended))
      return
    }
    this.held.push(job)
    this.sendHeld()
  }

  private get oldestId(): number {
    for (const id of this.outstanding.keys()) return id
    return this.lastId + 1
  }

  private sendHeld(): void {
    while (this.held.length > 0 && this.outstanding.size < CANCEL_SLOTS) {
      this.send(this.held.shift()!)
    }
  }

  private send(job: Job): void {
    // One that goes on for long keeps its place, and nobody else from going by.
    do this.lastId++
    while (this.places[this.lastId % CANCEL_SLOTS] !== 0)
    job.id = this.lastId
    this.places[job.id % CANCEL_SLOTS] = 1
    this.outstanding.set(job.id, job)
    if (job.isUnwanted) this.cancels.cancel(job.id)
    this.worker.write({ ...job.request, id: job.id })
  }

  /** Whether it was waiting for others: then nobody hears of it any more. */
  cancel(job: Job): boolean {
    job.onEvent = ignoreEvent
    const index = this.held.indexOf(job)
    if (index >= 0) this.held.splice(index, 1)
    if (this.outstanding.has(job.id)) this.cancels.cancel(job.id)
    const isWaiting = this.oldestId !== job.id
    if (isWaiting) job.onEnd = () => {}
    return isWaiting
  }

  cancelModel(): void {
    for (const { id, request } of this.outstanding.values()) {
      if (modelRequests.has(request.type)) this.cancels.cancel(id)
    }
    for (const job of this.held) job.isUnwanted ||= modelRequests.has(job.request.type)
  }

  private finish(id: number, end: Either.Either<AnyAnswer, ClusterError>): void {
    const job = this.outstanding.get(id)
    if (this.outstanding.delete(id)) this.places[id % CANCEL_SLOTS] = 0
    this.sendHeld()
    job?.onEnd(end)
  }

  private end(exit: WorkerExit): void {
    const ended = errorOfEnd(exit, this.outstanding.get(this.oldestId)?.request)
    this.ended = ended
    const lost = [...this.outstanding.values(), ...this.held.splice(0)]
    this.outstanding.clear()
    for (const job of lost) job.onEnd(Either.left(ended))
  }

  private dispatch(event: Numbered<EngineEvent>, data: Uint8Array): void {
    if (event.type === "note") {
      this.onNote(event.text)
      return
    }
    // An object that a library printed is about no request.
    if (!this.outstanding.has(event.id)) return
    if (!isFinal(event)) {
      this.outstanding.get(event.id)?.onEvent(event)
    } else if (event.type === "failed") {
      this.finish(event.id, Either.left(errorFromData(event.error)))
    } else {
      this.finish(event.id, Either.right({ event, data }))
    }
  }
}

const showLine = (line: string): void => {
  process.stderr.write(`${line}\n`)
}
