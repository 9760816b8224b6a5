/** Reads OpenAI's harmony format: `<|channel|>NAME to=RECIPIENT <|message|>TEXT<|end|>`, message after message. */
import type { Reading } from "./OutputReader.ts"
import type { Parsing } from "./TextInput.ts"

const ends = ["<|end|>", "<|return|>", "<|call|>", "<|start|>"]

export function* readHarmony({ input, emit, calls, hasTools, splitsThoughts }: Reading): Parsing {
  // The prompt ends with `<|start|>assistant`, so a header comes first, with a channel or without.
  while (!input.isAtEnd) {
    let header = ""
    const mark = yield* input.until(["<|message|>"], (text) => (header += text))
    if (mark === undefined) {
      if (header.trim() !== "") emit({ type: "content", text: header })
      return
    }
    const tool = /to=functions\.([^\s<]+)/.exec(header)?.[1]
    const channel = /<\|channel\|>\s*(\w+)/.exec(header)?.[1]
    if (tool !== undefined && hasTools) {
      calls.begin(tool)
      yield* input.until(ends, (text) => calls.args(text))
      calls.end()
    } else if (channel === "analysis" && !splitsThoughts) {
      emit({ type: "content", text: `${header}<|message|>` })
      const end = yield* input.until(ends, (text) => emit({ type: "content", text }))
      emit({ type: "content", text: end ?? "" })
    } else {
      const type = channel === "analysis" ? "reasoning" : "content"
      yield* input.until(ends, (text) => emit({ type, text }))
    }
    yield* input.peek()
  }
}
