import { expect, test } from "bun:test"
import { type CommandName, type CommandSpec, commands } from "./flags.ts"
import { commandHelp, rootHelp } from "./help.ts"

const names = Object.keys(commands) as ReadonlyArray<CommandName>

test("the root's help names every command", () => {
  for (const name of names) expect(rootHelp(80)).toContain(`\n  ${name} `)
})

test.each(names)("the help of %s names every flag and fits into 80 columns", (name) => {
  const help = commandHelp(name, 80)
  const spec: CommandSpec = commands[name]
  for (const flag of Object.values(spec.flags)) {
    for (const spelling of [`--${flag.name}`, ...flag.aliases]) {
      expect(help).toMatch(new RegExp(`  (.*, )?${spelling}[, \\n]`))
    }
    expect(help).toContain(`${flag.group}:`)
  }
  expect(help.split("\n").filter((line) => line.length > 80)).toEqual([])
  expect(help).toContain(`Usage: ggml-rpc ${name}`)
})
