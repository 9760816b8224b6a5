/** How errors look on stderr. */
import { columnsOf, stderr, styleOf } from "./terminal.ts"
import { wrap } from "./wrap.ts"

/** The text as a sentence: some messages come without a full stop, and a list needs none. */
const sentence = (text: string): string =>
  text.includes("\n") || /[.?!:;…]$/.test(text) ? text : `${text}.`

/** One paragraph, broken into lines on a terminal. */
export const errorText = (message: string): string => {
  const label = styleOf(stderr).red("error:")
  const [first = "", ...rest] = wrap(`error: ${sentence(message)}`, columnsOf(stderr))
  return [first.replace("error:", label), ...rest].join("\n")
}

/** A message that says what is wrong with the call, and where help is. */
export const usageErrorText = (error: Error, command?: string): string => {
  const help = command === undefined ? "ggml-rpc --help" : `ggml-rpc ${command} --help`
  return errorText(`${sentence(error.message)} See '${help}'.`)
}
