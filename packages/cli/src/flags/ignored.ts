/**
 * Flags of llama.cpp's commands that stand in people's scripts, and that change nothing here: taken, with a word where somebody
 * might wait for their effect, so that a script goes on.
 */
import { UsageError } from "../UsageError.ts"
import type { ReadFlag } from "./Flag.ts"
import { type Kind, onOff, optionalOnOffAuto, text } from "./kinds.ts"

/** A flag that is read past; no help names it. */
export interface IgnoredFlag extends ReadFlag {
  /** What is said about it; absent: it asks for what is done anyway. */
  readonly note?: string
}

const toggle = (flag: Omit<IgnoredFlag, "kind">): IgnoredFlag => ({ ...flag, kind: onOff })

/** Values that ask for what is done anyway; others are refused. */
const known = (values: ReadonlyArray<string>): Kind<string> => ({
  ...text("TYPE"),
  read: (texts, source) => {
    const other = texts.find((given) => !values.includes(given))
    if (other === undefined) return texts[0]
    throw new UsageError(
      `${source} ${other} is not what this command does: it knows ${values.join(", ")}`,
    )
  },
})

const logs = "GGML_RPC_DEBUG=1 is what shows logs"

const generating: ReadonlyArray<IgnoredFlag> = [
  toggle({
    name: "interactive",
    aliases: ["-i"],
    note: "a conversation asks for more in a terminal by itself",
  }),
  toggle({ name: "warmup", negations: ["--no-warmup"] }),
  toggle({ name: "simple-io" }),
  // What follows the prompt is kept as well.
  toggle({ name: "prompt-cache-all" }),
  toggle({
    name: "special",
    aliases: ["-sp"],
    note: "special tokens of the answer are not printed",
  }),
]

/** For every command that loads a model. */
export const ignoredByLoading: ReadonlyArray<IgnoredFlag> = [
  { name: "fit", env: "LLAMA_ARG_FIT", kind: known(["on", "1", "true"]) },
  {
    name: "threads-batch",
    aliases: ["-tb"],
    kind: text("N"),
    note: "prompts take as many threads as tokens: --threads",
  },
  toggle({ name: "log-disable", note: logs }),
  toggle({ name: "verbose", aliases: ["-v", "--log-verbose"], note: logs }),
  toggle({
    name: "log-prefix",
    negations: ["--no-log-prefix"],
    env: "LLAMA_ARG_LOG_PREFIX",
    note: logs,
  }),
  toggle({
    name: "log-timestamps",
    negations: ["--no-log-timestamps"],
    env: "LLAMA_ARG_LOG_TIMESTAMPS",
    note: logs,
  }),
  { name: "log-colors", env: "LLAMA_ARG_LOG_COLORS", kind: optionalOnOffAuto, note: logs },
  {
    name: "verbosity",
    aliases: ["-lv"],
    env: "LLAMA_ARG_LOG_VERBOSITY",
    kind: text("N"),
    note: logs,
  },
]

/** A flag that llama.cpp had, and refuses with the name of the one that came for it. */
const gone = (flag: Omit<IgnoredFlag, "kind">, instead: string): IgnoredFlag => ({
  ...flag,
  kind: {
    value: "N",
    read: (_, source) => {
      throw new UsageError(`${source} is no flag any more, as in llama.cpp: ${instead} is`)
    },
  },
})

const goneFromSpeculation: ReadonlyArray<IgnoredFlag> = [
  gone(
    { name: "draft", aliases: ["--draft-n", "--draft-max"], env: "LLAMA_ARG_DRAFT_MAX" },
    "--spec-draft-n-max",
  ),
  gone(
    { name: "draft-min", aliases: ["--draft-n-min"], env: "LLAMA_ARG_DRAFT_MIN" },
    "--spec-draft-n-min",
  ),
]

export const ignoredByRun: ReadonlyArray<IgnoredFlag> = [
  ...generating,
  ...goneFromSpeculation,
  ...ignoredByLoading,
]

/** llama-bench's. */
export const ignoredByBench: ReadonlyArray<IgnoredFlag> = [
  toggle({ name: "progress" }),
  { name: "poll", kind: text("N"), note: "threads wait as ggml has it" },
  { name: "prio", kind: text("N"), note: "'nice' and the like set priorities" },
  ...ignoredByLoading,
]

/** llama-server's. */
export const ignoredByApi: ReadonlyArray<IgnoredFlag> = [
  toggle({ name: "warmup", negations: ["--no-warmup"] }),
  toggle({ name: "jinja", env: "LLAMA_ARG_JINJA" }),
  toggle({ name: "cont-batching", aliases: ["-cb"], env: "LLAMA_ARG_CONT_BATCHING" }),
  toggle({ name: "kv-unified", aliases: ["-kvu"], env: "LLAMA_ARG_KV_UNIFIED" }),
  toggle({ name: "props", env: "LLAMA_ARG_ENDPOINT_PROPS", note: "POST /props changes nothing" }),
  {
    name: "threads-http",
    env: "LLAMA_ARG_THREADS_HTTP",
    kind: text("N"),
  },
  ...goneFromSpeculation,
  ...ignoredByLoading,
]
