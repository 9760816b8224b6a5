/** Names of models on a hub: `user/repo[:quant]`. */
import { ModelNameError } from "./errors.ts"

export interface ModelName {
  readonly repo: string
  /** The quantization, as a part of a file's name: `Q4_K_M`. */
  readonly tag?: string
}

const SHAPE = "write user/repo or user/repo:quant, such as ggml-org/gemma-3-4b-it-GGUF:Q4_K_M"
const MAX_REPO_LENGTH = 256

/** Letters, digits and _ with single `.`, `-` or `/` between them, one of these a slash, as llama.cpp takes them. */
export const isRepo = (text: string): boolean =>
  text.length <= MAX_REPO_LENGTH && /^\w+([.-]\w+)*\/\w+([.-]\w+)*$/.test(text)

/** @throws {ModelNameError} */
export const parseModelName = (text: string): ModelName => {
  const [repo = "", ...rest] = text.split(":")
  // Of several, llama.cpp takes the last.
  const tag = rest.at(-1)
  if (!isRepo(repo)) {
    const reason = /^https?:\/\//i.test(text) ? `a URL is given with -mu; else ${SHAPE}` : SHAPE
    throw new ModelNameError({ name: text, reason })
  }
  return tag === undefined || tag === "" ? { repo } : { repo, tag }
}

export const formatModelName = ({ repo, tag }: ModelName): string =>
  tag === undefined ? repo : `${repo}:${tag}`
