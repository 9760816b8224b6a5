import { expect, test } from "bun:test"
import { type CommandName, type CommandSpec, commands } from "./flags.ts"
import { commandHelp, rootHelp } from "./help.ts"
import { wrap } from "./wrap.ts"

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

test("wrap breaks between words and keeps line breaks and indentation", () => {
  expect(wrap("one two three", 7)).toEqual(["one two", "three"])
  expect(wrap("unbreakable", 4)).toEqual(["unbreakable"])
  expect(wrap("a list:\n  first item\n  b", 9)).toEqual(["a list:", "  first", "  item", "  b"])
  expect(wrap("", 10)).toEqual([""])
  expect(wrap("a b", Number.POSITIVE_INFINITY)).toEqual(["a b"])
})
