/** `ggml-rpc completion`: the script for a shell. */
import * as Effect from "effect/Effect"
import { completionScript, shells } from "../completion.ts"
import type { CommandValues } from "../flags/commands.ts"
import { print } from "../terminal.ts"
import { UsageError } from "../UsageError.ts"

export const completion = ({ shell: [word = ""] }: CommandValues<"completion">) =>
  Effect.suspend(() => {
    const shell = shells.find((name) => name === word)
    if (shell !== undefined) return Effect.sync(() => print(completionScript(shell)))
    return Effect.fail(
      new UsageError(`completion takes one of ${shells.join(", ")}, not '${word}'`),
    )
  })
