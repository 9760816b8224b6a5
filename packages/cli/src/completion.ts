/** Scripts by which shells complete `ggml-rpc`, made from the tables of flags/. */
import { type CommandName, type CommandSpec, commands, flagsOf } from "./flags/commands.ts"
import { allSpellings, type Flag, spellings } from "./flags/Flag.ts"

export const shells = ["bash", "zsh", "fish"] as const
export type Shell = (typeof shells)[number]

interface CompletedCommand extends CommandSpec {
  readonly name: CommandName
  readonly all: ReadonlyArray<Flag<unknown>>
}

const completed: ReadonlyArray<CompletedCommand> = (
  Object.keys(commands) as ReadonlyArray<CommandName>
).map((name) => ({ ...(commands[name] as CommandSpec), name, all: Object.values(flagsOf(name)) }))

/** A word in single quotes, which the three shells end and escape alike. */
const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`

const list = (words: ReadonlyArray<string> = []): string => quoted(words.join(" "))

/** Files are offered where nothing else is, unless `compopt` says no. */
const bash = (): string => {
  const valueCases = completed.flatMap(({ name, all }) =>
    all
      .filter(({ kind }) => kind.value !== undefined && !kind.isPath)
      .map(
        (flag) =>
          `    ${spellings(flag)
            .map((spelling) => quoted(`${name} ${spelling}`))
            .join("|")}) values=${list(flag.kind.choices)}; compopt +o default ;;`,
      ),
  )
  const pathCases = completed.flatMap(({ name, all }) =>
    all
      .filter(({ kind }) => kind.isPath)
      .flatMap((flag) => spellings(flag).map((spelling) => quoted(`${name} ${spelling}`))),
  )
  const commandCases = completed.map(
    ({ name, all, positional }) =>
      `    ${name}) flags=${list(all.flatMap(allSpellings))} words=${list(positional?.choices)} ;;`,
  )
  return `# ggml-rpc in bash: eval "$(ggml-rpc completion bash)"
_ggml_rpc() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} flags= words= values=
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W ${list(completed.map(({ name }) => name))} -- "$cur"))
    return
  fi
  # --flag=value is three words here.
  if [[ $cur == = ]]; then cur=
  elif [[ $prev == = ]]; then prev=\${COMP_WORDS[COMP_CWORD-2]}
  fi
  case "\${COMP_WORDS[1]} $prev" in
    ${pathCases.join("|")}) return ;;
${valueCases.join("\n")}
    *) values=none ;;
  esac
  if [[ $values != none ]]; then
    COMPREPLY=($(compgen -W "$values" -- "$cur"))
    return
  fi
  case "\${COMP_WORDS[1]}" in
${commandCases.join("\n")}
  esac
  if [[ $cur == -* ]]; then
    compopt +o default
    COMPREPLY=($(compgen -W "$flags" -- "$cur"))
  elif [[ $words ]]; then
    compopt +o default
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
  fi
}
complete -o default -F _ggml_rpc ggml-rpc
`
}

/** A text inside a spec of `_arguments`. */
const zshText = (text: string): string => text.replace(/[\\:[\]]/g, "\\$&")

const zshAction = ({ choices, isPath }: { choices?: ReadonlyArray<string>; isPath?: boolean }) =>
  choices === undefined ? (isPath ? "_files" : " ") : `(${choices.map(zshText).join(" ")})`

const zshFlag = (flag: Flag<unknown>): ReadonlyArray<string> => {
  const { value, impliedValues } = flag.kind
  const about = `[${zshText(flag.about)}]`
  if (value === undefined) return allSpellings(flag).map((name) => quoted(`*${name}${about}`))
  const separator = impliedValues === undefined ? ":" : "::"
  const argument = `${separator}${zshText(value)}:${zshAction(flag.kind)}`
  return spellings(flag).map((name) =>
    quoted(`*${name}${name.startsWith("--") ? "=" : ""}${about}${argument}`),
  )
}

const zshWords = ({ positional }: CommandSpec): ReadonlyArray<string> => {
  if (positional === undefined) return []
  const { name, isRepeated } = positional
  return [quoted(`${isRepeated ? "*" : "1"}:${zshText(name)}:${zshAction(positional)}`)]
}

const zsh = (): string => {
  const described = completed.map(({ name, about }) => `    ${quoted(`${name}:${zshText(about)}`)}`)
  const cases = completed.map((command) => {
    const specs = [...command.all.flatMap(zshFlag), ...zshWords(command)]
    return `    ${command.name})\n      _arguments \\\n        ${specs.join(" \\\n        ")} ;;`
  })
  return `#compdef ggml-rpc
# ggml-rpc in zsh: source <(ggml-rpc completion zsh), or this file as _ggml-rpc in a folder of $fpath
_ggml_rpc() {
  local -a commands=(
${described.join("\n")}
  )
  if ((CURRENT == 2)); then
    _describe command commands
    return
  fi
  shift words
  ((CURRENT--))
  case $words[1] in
${cases.join("\n")}
  esac
}
if [[ $funcstack[1] == _ggml-rpc ]]; then _ggml_rpc "$@"; else compdef _ggml_rpc ggml-rpc; fi
`
}

/** `-s` would let fish read `-ngl` as `-n gl`. */
const fishName = (spelling: string): string =>
  `${spelling.startsWith("--") ? "-l" : "-o"} ${spelling.replace(/^-+/, "")}`

const fishValue = ({ value, impliedValues, isPath, choices }: Flag<unknown>["kind"]): string => {
  if (value === undefined) return ""
  if (isPath) return " -r -F"
  const offered = choices === undefined ? "" : ` -a ${list(choices)}`
  return impliedValues === undefined ? ` -x${offered}` : `-f${offered}`
}

const fish = (): string => {
  const lines = completed.flatMap(({ name, about, all, positional }) => {
    const start = `complete -c ggml-rpc -n ${quoted(`__fish_seen_subcommand_from ${name}`)}`
    return [
      `complete -c ggml-rpc -f -n __fish_use_subcommand -a ${name} -d ${quoted(about)}`,
      ...(positional?.isPath ? [] : [`${start} -f -a ${list(positional?.choices)}`]),
      ...all.map(
        (flag) =>
          `${start} ${allSpellings(flag).map(fishName).join(" ")}${fishValue(flag.kind)} -d ${quoted(flag.about)}`,
      ),
    ]
  })
  return `# ggml-rpc in fish: ggml-rpc completion fish | source\n${lines.join("\n")}\n`
}

const scripts: Readonly<Record<Shell, () => string>> = { bash, zsh, fish }

export const completionScript = (shell: Shell): string => scripts[shell]()
