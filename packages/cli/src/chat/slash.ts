/** What can be said to a chat besides messages: `/word` and perhaps something after it. */

export const slashCommands = [
  { name: "help", about: "this list" },
  { name: "clear", about: "begin anew; the system message stays" },
  { name: "system", value: "TEXT", about: "what the model is told before; alone: shows it" },
  { name: "regen", about: "another answer to the last message" },
  { name: "save", value: "FILE", about: "write the conversation as JSON" },
  { name: "load", value: "FILE", about: "go on with a saved conversation" },
  { name: "model", value: "NAME", about: "another model: a file, or user/repo[:quant]" },
  { name: "quit", about: "leave; so does Ctrl-D" },
] as const

export type SlashName = (typeof slashCommands)[number]["name"]

export type Said =
  | { readonly kind: "message"; readonly text: string }
  | { readonly kind: "command"; readonly name: SlashName; readonly value: string }
  | { readonly kind: "unknown"; readonly word: string }

/** A message may begin with a slash all the same: a path does, or two slashes for one. */
export const readSaid = (line: string): Said => {
  const [, word, value = ""] = /^\/([a-z]+)(?:\s+([\s\S]*))?$/.exec(line.trim()) ?? []
  if (word === undefined) return { kind: "message", text: line.replace(/^\/\//, "/") }
  const name = word === "exit" ? "quit" : word
  const found = slashCommands.find((command) => command.name === name)
  return found === undefined
    ? { kind: "unknown", word }
    : { kind: "command", name: found.name, value: value.trim() }
}

export const slashHelp = (): string => {
  const rows = slashCommands.map((command) => [
    `/${command.name}${"value" in command ? ` ${command.value}` : ""}`,
    command.about,
  ])
  return rows.map(([name, about]) => `${name!.padEnd(14)}${about}`).join("\n")
}
