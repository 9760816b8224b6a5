import { type GgufFile, ggufInteger, ggufString, readGgufArray } from "@ggml-rpc/gguf"

/** Padding of vocabularies differs between sizes of a model (llama.cpp v0.5.0, common/speculative.cpp). */
const MAX_SIZE_DIFFERENCE = 128
/** Tokens before this one are marks, which may have other names. */
const FIRST_TEXT_TOKEN = 5

/** Why tokens that one model guesses are not those of the other; undefined: they are. */
export const whyNoDraftFor = (model: GgufFile, draft: GgufFile): string | undefined => {
  const [kind, draftKind] = [model, draft].map(kindOf)
  const advice = "give a smaller model of the same family"
  if (kind !== draftKind) {
    return `its tokens are of the kind ${draftKind}, and those of ${model.path} of the kind ${kind}, so that it cannot guess them; ${advice}.`
  }
  const mark = marks.find(
    (key) => model.metadata.has(key) && draft.metadata.has(key) && !isSame(model, draft, key),
  )
  if (mark !== undefined) {
    return `its ${mark} is ${ggufInteger(draft, mark)}, and that of ${model.path} is ${ggufInteger(model, mark)}, so that it cannot guess its tokens; ${advice}.`
  }
  const [words, draftWords] = [model, draft].map(wordsOf)
  const difference = Math.abs(sizeOf(model, words) - sizeOf(draft, draftWords))
  if (difference > MAX_SIZE_DIFFERENCE) {
    return `it has ${sizeOf(draft, draftWords)} tokens, and ${model.path} has ${sizeOf(model, words)}, so that it cannot guess them; ${advice}.`
  }
  const count = Math.min(words!.length, draftWords!.length)
  for (let token = FIRST_TEXT_TOKEN; token < count; token++) {
    if (words![token] === draftWords![token]) continue
    return `its token ${token} is ${JSON.stringify(draftWords![token])}, and that of ${model.path} is ${JSON.stringify(words![token])}, so that it cannot guess its tokens; ${advice}.`
  }
  return undefined
}

const marks = ["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"]

const isSame = (model: GgufFile, draft: GgufFile, key: string): boolean =>
  ggufInteger(model, key) === ggufInteger(draft, key)

const kindOf = (gguf: GgufFile): string => ggufString(gguf, "tokenizer.ggml.model") ?? "none"

const wordsOf = (gguf: GgufFile): ReadonlyArray<unknown> =>
  readGgufArray(gguf, "tokenizer.ggml.tokens") ?? []

/** Models without a vocabulary say how many tokens they have. */
const sizeOf = (gguf: GgufFile, words: ReadonlyArray<unknown> = []): number =>
  words.length > 0
    ? words.length
    : (ggufInteger(gguf, `${ggufString(gguf, "general.architecture")}.vocab_size`) ?? 0)
