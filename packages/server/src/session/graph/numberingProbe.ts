import { NUMBERING_PROBE } from "@ggml-rpc/protocol"
import { type Words, word } from "./tensorWords.ts"

const probeName = new TextEncoder().encode(`${NUMBERING_PROBE}\0`)

/** Whether the tensor at word `at` is the node by which a client asks how this server numbers operations. */
export const isNumberingProbe = (words: Words, at: number): boolean => {
  const name = new Uint8Array(words.buffer, words.byteOffset + (at + word.name) * 4, 64)
  return probeName.every((byte, index) => name[index] === byte)
}
