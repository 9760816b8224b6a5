/** Probabilities of tokens as llama-server tells them. */
import type { Logprobs } from "../textRuns.ts"

type Candidate = Logprobs["chosen"]

const encoder = new TextEncoder()

const candidate = ({ id, text, bytes, logprob }: Candidate) => ({
  id,
  token: text,
  bytes: bytes ?? [...encoder.encode(text)],
  logprob,
})

/** One token, and those that could have come. */
export const tokenProbability = ({ chosen, top }: Logprobs) => ({
  ...candidate(chosen),
  top_logprobs: top.map(candidate),
})
