/** Asks for a line, with node:readline's keys on a terminal; else reads the lines of stdin. */
import { createInterface, type Interface } from "node:readline"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { isStdinTerminal, stderr, stdout } from "../terminal.ts"
import { History, historyPath } from "./History.ts"
import { KeyInput } from "./KeyInput.ts"

export interface LineEditor {
  /** The next message, of several lines perhaps; undefined: there is no more. */
  readonly read: Effect.Effect<string | undefined>
  /** Calls `onInterrupt` for each Ctrl-C while `effect` runs. */
  readonly during: <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    onInterrupt: () => void,
  ) => Effect.Effect<A, E, R>
}

const PROMPT = "> "
const MORE = "… "

/** Whether somebody types: then there are prompts. */
export const isInteractive = (): boolean => isStdinTerminal() && (stdout.isTTY || stderr.isTTY)

/** stdout is for answers, where it is no terminal. */
const promptStream = () => (stdout.isTTY ? process.stdout : process.stderr)

export const openLineEditor: Effect.Effect<LineEditor, never, Scope.Scope> = Effect.suspend(() =>
  isInteractive() ? openTerminal : openPipe,
)

const openTerminal = Effect.sync((): LineEditor => {
  const output = promptStream()
  const history = new History(historyPath())
  const keys = new KeyInput(process.stdin, (text) => output.write(text))
  const taking = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.acquireUseRelease(
      Effect.sync(() => keys.open()),
      () => effect,
      () => Effect.sync(() => keys.close()),
    )
  const readLine = (prompt: string) =>
    Effect.async<string | undefined>((resume) => {
      // One for each line: between lines it would draw its prompt into an answer when the terminal is resized.
      const editor = createInterface({
        input: keys.stream,
        output,
        terminal: true,
        prompt,
        history: [...history.lines],
        escapeCodeTimeout: 50,
      })
      let line: string | undefined
      editor.on("line", (given) => {
        line = given
        editor.close()
      })
      editor.on("SIGINT", () => {
        if (editor.line === "") editor.close()
        else clearLine(editor)
      })
      editor.on("close", () => {
        if (line === undefined) output.write("\n")
        resume(Effect.succeed(line))
      })
      editor.prompt()
      keys.read()
      return Effect.sync(() => editor.close())
    })
  const read = Effect.gen(function* () {
    const lines: string[] = []
    for (;;) {
      const line = yield* taking(readLine(lines.length === 0 ? PROMPT : MORE))
      if (line === undefined) return undefined
      history.add(line)
      // A line feed that is meant is written after a backslash.
      const continues = line.endsWith("\\")
      lines.push(keys.expanded(continues ? line.slice(0, -1) : line))
      if (!continues) return lines.join("\n")
    }
  })
  const during: LineEditor["during"] = (effect, onInterrupt) =>
    taking(
      Effect.suspend(() => {
        keys.hold(onInterrupt)
        return effect
      }),
    )
  return { read, during }
})

const clearLine = (editor: Interface): void => {
  editor.write(null, { ctrl: true, name: "e" })
  editor.write(null, { ctrl: true, name: "u" })
}

const openPipe = Effect.gen(function* () {
  const editor = yield* Effect.acquireRelease(
    Effect.sync(() => createInterface({ input: process.stdin, terminal: false })),
    (made) => Effect.sync(() => made.close()),
  )
  const lines = editor[Symbol.asyncIterator]()
  const read = Effect.promise(async () => {
    const { value, done } = await lines.next()
    return done ? undefined : String(value)
  })
  return { read, during: (effect) => effect } satisfies LineEditor
})
