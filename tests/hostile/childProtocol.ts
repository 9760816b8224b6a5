/** What opFuzz.ts and its child process say to each other. */
import type { StrayByte } from "./Arena.ts"
import type { CaseSource } from "./cases.ts"

export interface ChildConfig {
  readonly source: CaseSource
  readonly firstNumber: number
  /** The first number that is not run. */
  readonly endNumber: number
  readonly threadCount: number
  /** Whether nodes run that no rule allows. */
  readonly isUnchecked: boolean
  /** A file of float64, see `progress`. */
  readonly progressPath: string
  /** What compileTrap made. */
  readonly trapPath: string
  /** Operations and fields that failed often enough: `CLAMP result.nb[1]`. */
  readonly skipped: readonly string[]
}

/** Places in the shared file. */
export const progress = {
  /** Written by the parent: whether to stop. */
  stop: 0,
  /** The case that runs. */
  number: 1,
  /** Since when, as `Date.now()`; 0 when none does. */
  startedMs: 2,
  /** For each operation how many cases had which outcome. */
  counts: 3,
} as const

/** How a case may end in the child. */
export const outcome = {
  refused: 0,
  ran: 1,
  /** ggml gave a status that is no success. */
  failed: 2,
  /** It crashed and was trapped, or changed a byte that is none of its own. */
  broken: 3,
  skipped: 4,
  count: 5,
} as const

/** JSON lines on the child's stdout. */
export type ChildEvent =
  | { readonly event: "ready"; readonly addresses: readonly (readonly number[])[] }
  /** A valid node was refused. */
  | { readonly event: "refused"; readonly number: number; readonly message: string }
  /** A case crashed or aborted, or left its memory. */
  | { readonly event: "broken"; readonly number: number; readonly words: string }
  | ({ readonly event: "stray"; readonly number: number } & StrayByte)
