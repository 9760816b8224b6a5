/** Reads Gemma 4's calls: `call:NAME{key:<|"|>text<|"|>,list:[1,true]}`, JSON whose texts have marks for quotes and whose keys have none. */
import type { CallWriter } from "./calls.ts"
import type { Parsing, TextInput } from "./TextInput.ts"

export const GEMMA = {
  open: "<|tool_call>call:",
  close: "<tool_call|>",
  quote: '<|"|>',
} as const

const signs = ["{", "}", "[", "]", ":", ",", GEMMA.quote, GEMMA.close]

/** What follows {@link GEMMA.open}. */
export function* readGemmaCall(input: TextInput, calls: CallWriter): Parsing {
  let name = ""
  const begun = yield* input.until(["{", GEMMA.close], (text) => (name += text))
  if (begun === undefined) return
  calls.begin(name.trim())
  if (begun !== "{") return calls.end()
  calls.args("{")
  let depth = 1
  while (depth > 0) {
    let word = ""
    const sign = yield* input.until(signs, (text) => (word += text))
    word = word.trim()
    // A word before a colon is a key; others are numbers, true, false or null.
    if (word !== "") calls.args(sign === ":" ? JSON.stringify(word) : word)
    if (sign === undefined || sign === GEMMA.close) return
    if (sign === GEMMA.quote) yield* readText(input, calls)
    else calls.args(sign)
    if (sign === "{" || sign === "[") depth++
    if (sign === "}" || sign === "]") depth--
  }
  yield* input.until([GEMMA.close], () => {})
}

function* readText(input: TextInput, calls: CallWriter): Parsing {
  calls.args('"')
  yield* input.until([GEMMA.quote], (text) => calls.args(JSON.stringify(text).slice(1, -1)))
  calls.args('"')
}
