/** In the shells themselves, those that are installed. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { completionScript, type Shell, shells } from "./completion.ts"

setDefaultTimeout(30_000)

let folder = ""
const scriptOf = (shell: Shell): string => join(folder, `completion.${shell}`)

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-completion-"))
  for (const shell of shells) writeFileSync(scriptOf(shell), completionScript(shell))
})

afterAll(() => rmSync(folder, { recursive: true }))

const outputOf = (words: ReadonlyArray<string>): string => {
  const { stdout, stderr } = Bun.spawnSync([...words], { cwd: folder, stdin: "ignore" })
  expect(stderr.toString()).toBe("")
  return stdout.toString()
}

/** Each prints what the last word of a line is completed to; the word itself where there is nothing, or more than one. */
const completions: Readonly<Record<Shell, (line: string) => string>> = {
  bash: (line) => {
    const words = line.split(" ")
    const program = `source '${scriptOf("bash")}'
      compopt() { :; } # only inside of a completion of readline's
      COMP_WORDS=(${line}); COMP_CWORD=${words.length - 1}
      _ggml_rpc
      if ((\${#COMPREPLY[@]} == 1)); then echo "\${COMPREPLY[0]}"; else echo '${words.at(-1)}'; fi`
    return outputOf(["bash", "--norc", "-c", program]).trim()
  },
  // A terminal of its own, in which TAB is typed, and then a key that shows the line.
  zsh: (line) => {
    const start = join(folder, "start.zsh")
    writeFileSync(
      start,
      `autoload -Uz compinit; compinit -D -u; source '${scriptOf("zsh")}'
      show() { BUFFER="shown<$BUFFER>" }; zle -N show
      bindkey '^X' show; bindkey '^I' complete-word`,
    )
    const program = `zmodload zsh/zpty
      export TERM=dumb
      zpty terminal zsh -f -i
      zpty -w terminal "source '${start}'"
      zpty -w -n terminal $'${line}\\t\\x18'
      zpty -r -m terminal output '*shown<*>*'
      zpty -d terminal
      print -r -- "$output"`
    const [, shown = ""] = /.*shown<([^>]*)>/s.exec(outputOf(["zsh", "-f", "-c", program])) ?? []
    return shown.trim().split(" ").at(-1)!.replace(/=$/, "")
  },
  fish: (line) => {
    const program = `source ${scriptOf("fish")}; complete -C '${line}'`
    const found = outputOf(["fish", "--no-config", "-c", program]).trim().split("\n")
    return found.length === 1 && found[0] !== ""
      ? found[0]!.split("\t")[0]!
      : line.split(" ").at(-1)!
  },
}

const installed = shells.filter((shell) => Bun.which(shell) !== null)

test.each(installed)("%s completes commands, flags, their values and words", (shell) => {
  const complete = completions[shell]
  expect(complete("ggml-rpc pl")).toBe("plan")
  expect(complete("ggml-rpc run --tensor-s")).toBe("--tensor-split")
  expect(complete("ggml-rpc run -cmo")).toBe("-cmoe")
  expect(complete("ggml-rpc serve --max-cl")).toBe("--max-clients")
  expect(complete("ggml-rpc run --max-cl")).toBe("--max-cl")
  expect(complete("ggml-rpc run -ctk iq")).toBe("iq4_nl")
  expect(complete("ggml-rpc service in")).toBe("install")
})
