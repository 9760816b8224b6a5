import { expect, test } from "bun:test"
import { type CommandName, commands, flagsOf } from "./flags/commands.ts"
import { allSpellings } from "./flags/Flag.ts"
import { commandHelp, rootHelp } from "./help.ts"

const names = Object.keys(commands) as ReadonlyArray<CommandName>

test("the root's help names every command", () => {
  for (const name of names) expect(rootHelp(80)).toContain(`\n  ${name} `)
})

test.each(names)("the help of %s names every flag and fits into 80 columns", (name) => {
  const help = commandHelp(name, 80)
  for (const flag of Object.values(flagsOf(name))) {
    for (const spelling of allSpellings(flag)) {
      expect(help).toMatch(new RegExp(`  (.*, )?${spelling}[, \\n]`))
    }
    expect(help).toContain(`${flag.group}:`)
  }
  expect(help.split("\n").filter((line) => line.length > 80)).toEqual([])
  expect(help).toContain(`Usage: ggml-rpc ${name}`)
})

test("what holds without a flag, and its variable, stand behind what it does", () => {
  const help = commandHelp("run", 200)
  expect(help).toContain("(default: 512; 128 over several servers, env: LLAMA_ARG_UBATCH)")
  expect(help).toContain("-e, --escape, --no-escape")
  expect(help).toContain("-fa, --flash-attn [on|off|auto]")
})
