/**
 * Flags of llama.cpp's commands that stand in people's scripts, and that change nothing here: taken, with a word where somebody
 * might wait for their effect, so that a script goes on.
 */

/** A flag that is read past. */
export interface AcceptedFlag {
  readonly names: ReadonlyArray<string>
  /** It has a value: any, or one of these. */
  readonly values?: ReadonlyArray<string> | "any"
  /** What is said about it; absent: it asks for what is done anyway. */
  readonly note?: string
}

const oneTurn: ReadonlyArray<AcceptedFlag> = [
  { names: ["-no-cnv", "--no-conversation"] },
  { names: ["-st", "--single-turn"] },
  { names: ["--no-display-prompt"] },
  { names: ["--no-warmup"] },
  { names: ["--warmup"], note: "there is no warm-up: the first tokens are as fast as the others" },
  { names: ["--simple-io"] },
  { names: ["--no-context-shift"] },
  { names: ["--no-perf", "--perf"], note: "timings are printed on stderr in any case" },
  { names: ["-sp", "--special"], note: "special tokens of the answer are not printed" },
]

/** For every command that loads a model. */
const loading: ReadonlyArray<AcceptedFlag> = [
  { names: ["--mmap"] },
  { names: ["-sm", "--split-mode"], values: ["layer", "none"] },
  { names: ["-fit", "--fit"], values: ["on", "1", "true"] },
  {
    names: ["-tb", "--threads-batch"],
    values: "any",
    note: "prompts take as many threads as tokens: --threads",
  },
  { names: ["--log-disable", "--log-colors"], note: "GGML_RPC_DEBUG=1 is what shows logs" },
  { names: ["-lv", "--verbosity"], values: "any", note: "GGML_RPC_DEBUG=1 is what shows logs" },
]

/** By command. */
export const acceptedFlags: Readonly<Record<string, ReadonlyArray<AcceptedFlag>>> = {
  run: [...oneTurn, ...loading],
  plan: loading,
  verify: loading,
}
