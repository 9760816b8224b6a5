/** Reads Functionary 3.2: `all\n` before content, `NAME\n{…}` before arguments, `>>>` between them; the prompt ends with `>>>`. */
import type { Reading } from "./OutputReader.ts"
import type { Parsing } from "./TextInput.ts"

export function* readRecipients({ input, emit, calls }: Reading): Parsing {
  let mark: string | undefined = ">>>"
  while (mark !== undefined) {
    let recipient = ""
    if ((yield* input.until(["\n"], (text) => (recipient += text))) === undefined) {
      if (recipient !== "") emit({ type: "content", text: recipient })
      return
    }
    const isCall = calls.isKnown(recipient.trim())
    if (isCall) calls.begin(recipient.trim())
    mark = yield* input.until([">>>"], (text) =>
      isCall ? calls.args(text) : emit({ type: "content", text }),
    )
    if (isCall) calls.end()
  }
}
