/** Servers that are waited for long. Looked for from outside: an engine that waits can tell nothing. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Wait } from "./Cancels.ts"

/** A server has been waited for, and still is unless `isOver`. */
export interface ServerWait {
  readonly endpoint: string
  /** Servers with which it adds up sums, for one of which it may wait itself; absent: none. */
  readonly others?: ReadonlyArray<string>
  /** To the second. */
  readonly waitedMs: number
  /** The engine goes on: the server answered, or was given up on. */
  readonly isOver: boolean
}

const LOOK_INTERVAL_MS = 1000

/** A batch of a prompt takes seconds on slow servers. */
const FIRST_TOLD_MS = 5000

/** Looks once a second until the scope closes; tells of a wait after 5 s, and again each time that it has lasted twice as long. */
export const watchWaits = (
  look: () => Wait,
  endpoints: ReadonlyArray<string>,
  onWait: (wait: ServerWait) => void,
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.asVoid(
    Effect.acquireRelease(
      Effect.sync(() => {
        const watch = new WaitWatch(endpoints, onWait)
        const timer = setInterval(() => watch.see(look(), performance.now()), LOOK_INTERVAL_MS)
        timer.unref()
        return timer
      }),
      (timer) => Effect.sync(() => clearInterval(timer)),
    ),
  )

/** What follows from looks at the engine. */
export class WaitWatch {
  readonly #endpoints: ReadonlyArray<string>
  readonly #onWait: (wait: ServerWait) => void
  #wait: Wait = { place: -1, count: 0, linked: 0 }
  #since = 0
  #nextToldMs = FIRST_TOLD_MS

  constructor(endpoints: ReadonlyArray<string>, onWait: (wait: ServerWait) => void) {
    this.#endpoints = endpoints
    this.#onWait = onWait
  }

  /** `now`: milliseconds of a clock that only goes forward. */
  see(wait: Wait, now: number): void {
    const waitedMs = now - this.#since
    const { place, count } = this.#wait
    if (wait.count === count && wait.place === place) {
      if (place < 0 || waitedMs < this.#nextToldMs) return
      this.#nextToldMs = 2 * waitedMs
      this.#tell(waitedMs, false)
      return
    }
    if (this.#nextToldMs > FIRST_TOLD_MS) this.#tell(waitedMs, true)
    this.#wait = wait
    this.#since = now
    this.#nextToldMs = FIRST_TOLD_MS
  }

  #tell(waitedMs: number, isOver: boolean): void {
    const { place, linked } = this.#wait
    const endpoint = this.#endpoints[place]
    if (endpoint === undefined) return
    const isLinked = (at: number): boolean => at < 32 && (linked & (1 << at)) !== 0
    const others = isLinked(place)
      ? this.#endpoints.filter((_, at) => at !== place && isLinked(at))
      : []
    this.#onWait({
      endpoint,
      ...(others.length > 0 && { others }),
      waitedMs: Math.round(waitedMs / 1000) * 1000,
      isOver,
    })
  }
}
