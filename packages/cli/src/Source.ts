import type { ReadFlag, Texts } from "./flags/Flag.ts"

/** What may give flags their values: the command line, the environment, a file. */
export interface Source {
  readonly textsOf: (flag: ReadFlag) => Texts | undefined
  /** What is to blame for a flag's value, as messages name it: `--port`. */
  readonly nameOf: (flag: ReadFlag) => string
  /** Words besides the flags. */
  readonly words?: ReadonlyArray<string>
}
