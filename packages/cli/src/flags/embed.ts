/** Embeddings: llama-embedding's flags (llama.cpp v0.5.0, common/arg.cpp). */
import { flag } from "./Flag.ts"
import { choice, integer, text } from "./kinds.ts"

const group = "Embeddings"

export const pooling = flag({
  name: "pooling",
  env: "LLAMA_ARG_POOLING",
  kind: choice(["mean", "cls", "last", "rank"]),
  about: "how embeddings of a text's tokens become one",
  unset: "the model's way",
  group,
})

export const embeddingFlags = {
  pooling: { ...pooling, kind: choice(["mean", "cls", "last"]) },
  normalize: flag({
    name: "embd-normalize",
    kind: integer({ min: -1, max: 1000 }),
    about: "scale by: -1 nothing, 0 the largest value, 1 the sum, 2 the length, above: that norm",
    default: "2",
    group,
  }),
  format: flag({
    name: "embd-output-format",
    kind: choice(["text", "array", "json", "json+", "raw"]),
    about: "text, array, json (as OpenAI's), json+ (with similarities) or raw (a text a line)",
    default: "text",
    group,
  }),
  separator: flag({
    name: "embd-separator",
    kind: text("TEXT"),
    about: "what stands between texts",
    default: "\\n",
    group,
  }),
}
