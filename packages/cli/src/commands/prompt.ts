/** The prompt: from `-p`, a file, or stdin. */

import type { Cluster } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { PromptFileError } from "../errors.ts"
import { fileReason } from "../fileReason.ts"
import type { FlagValues } from "../flags/Flag.ts"
import type { promptFlags } from "../flags/generation.ts"
import { isStdinTerminal } from "../terminal.ts"
import { UsageError } from "../UsageError.ts"

type PromptValues = FlagValues<typeof promptFlags>

export const readPrompt = (
  values: Pick<PromptValues, "prompt" | "file" | "escape">,
): Effect.Effect<string, UsageError | PromptFileError> =>
  Effect.map(rawPrompt(values), (text) => (values.escape ? processEscapes(text) : text))

const rawPrompt = ({
  prompt,
  file,
}: Pick<PromptValues, "prompt" | "file">): Effect.Effect<string, UsageError | PromptFileError> => {
  if (prompt !== undefined && file !== undefined) {
    return Effect.fail(new UsageError("-p and -f both give a prompt; one is needed"))
  }
  if (prompt !== undefined) return Effect.succeed(prompt)
  if (file !== undefined && file !== "-") return readText(file)
  if (file === undefined && isStdinTerminal()) return Effect.fail(noPrompt())
  return Effect.flatMap(readText("-"), (text) =>
    text === "" && file === undefined ? Effect.fail(noPrompt()) : Effect.succeed(text),
  )
}

export const noPrompt = () =>
  new UsageError("no prompt is given: use -p 'some text', -f FILE, or pipe it into stdin")

/** A file's text without its last line break, as llama-cli reads it. */
const readText = (path: string): Effect.Effect<string, PromptFileError> =>
  Effect.map(
    Effect.tryPromise({
      try: () => (path === "-" ? Bun.stdin.text() : Bun.file(path).text()),
      catch: (cause) => new PromptFileError({ path, reason: fileReason(cause) }),
    }),
    (text) => (text.endsWith("\n") ? text.slice(0, -1) : text),
  )

/** Texts that end what is generated. */
export const stopTextsOf = ({
  reversePrompt,
  escape: isEscaped,
}: Pick<PromptValues, "reversePrompt" | "escape">): Pick<Cluster.GenerateOptions, "stop"> => {
  if (reversePrompt === undefined) return {}
  return { stop: isEscaped ? reversePrompt.map(processEscapes) : reversePrompt }
}

const escapes: Readonly<Record<string, number>> = {
  n: 10,
  r: 13,
  t: 9,
  "'": 39,
  '"': 34,
  "\\": 92,
}

/**
 * Backslash sequences as llama-cli takes them (llama.cpp v0.5.0, common.cpp `string_process_escapes`):
 * `\n \r \t \' \" \\` and `\x41`; anything else stays as it is. `\x` gives bytes, several of which make
 * a character of UTF-8.
 */
export const processEscapes = (text: string): string => {
  if (!text.includes("\\")) return text
  const bytes = new TextEncoder().encode(text)
  const out = new Uint8Array(bytes.length)
  let size = 0
  for (let at = 0; at < bytes.length; at++) {
    const next = bytes[at + 1]
    if (bytes[at] !== 92 || next === undefined) {
      out[size++] = bytes[at]!
      continue
    }
    const letter = String.fromCharCode(next)
    const hex = String.fromCharCode(bytes[at + 2] ?? 0, bytes[at + 3] ?? 0)
    if (letter === "x" && /^[0-9a-fA-F]{2}$/.test(hex)) {
      out[size++] = Number.parseInt(hex, 16)
      at += 3
    } else if (escapes[letter] !== undefined) {
      out[size++] = escapes[letter]
      at++
    } else {
      out[size++] = 92
    }
  }
  return new TextDecoder().decode(out.subarray(0, size))
}
