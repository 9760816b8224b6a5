import { SPACE } from "./recital.ts"

/** `llama_token_type` of llama.cpp v0.5.0 include/llama.h. */
const TYPE = { normal: 1, unknown: 2, control: 3, byte: 6 } as const

interface Token {
  readonly text: string
  readonly type: (typeof TYPE)[keyof typeof TYPE]
  readonly score: number
}

/** A SentencePiece vocabulary: marks, all bytes (so that any prompt can be read), the recital. */
export interface Vocabulary {
  readonly tokens: readonly Token[]
  readonly unknown: number
  readonly begin: number
  readonly end: number
  /** Id of the recital's first token; the others follow it. */
  readonly recital: number
}

export const makeVocabulary = (recital: readonly string[]): Vocabulary => {
  const before: readonly Token[] = [
    { text: "<unk>", type: TYPE.unknown, score: 0 },
    { text: "<s>", type: TYPE.control, score: 0 },
    { text: "</s>", type: TYPE.control, score: 0 },
    ...Array.from({ length: 256 }, (_, byte) => byteToken(byte)),
    { text: SPACE, type: TYPE.normal, score: 0 },
  ]
  const words = recital.map((text, index) => ({ text, type: TYPE.normal, score: -index - 1 }))
  return {
    tokens: [...before, ...words],
    unknown: 0,
    begin: 1,
    end: 2,
    recital: before.length,
  }
}

const byteToken = (byte: number): Token => ({
  text: `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`,
  type: TYPE.byte,
  score: 0,
})
