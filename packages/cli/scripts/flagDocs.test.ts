import { expect, test } from "bun:test"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { readArgs } from "../src/argv.ts"
import { type CommandName, commands, flagsOf } from "../src/flags/commands.ts"
import { allSpellings } from "../src/flags/Flag.ts"
import { documents } from "./flagDocs.ts"

test.each(documents())("$path has the tables of src/flags", ({ written, expected }) => {
  expect(written).toBe(expected)
})

const root = join(import.meta.dir, "..", "..", "..")
const texts = [
  "README.md",
  ...readdirSync(join(root, "docs"))
    .filter((name) => name.endsWith(".md"))
    .map((name) => join("docs", name)),
  ...readdirSync(join(root, "packages")).map((name) => join("packages", name, "README.md")),
]

/** Commands with their words, as documents show them: in lines of a block, or in a word of code. */
const calls = texts.flatMap((path) => {
  const parts = readFileSync(join(root, path), "utf8").split(/^```.*$/m)
  const blocks = parts.filter((_, at) => at % 2 === 1).flatMap((block) => block.split("\n"))
  const words = parts
    .filter((_, at) => at % 2 === 0)
    .flatMap((prose) => [...prose.matchAll(/`([^`]+)`/g)].map(([, code]) => code!))
  return [...blocks, ...words].flatMap((line) => {
    const [, command, rest = ""] =
      /^(?:\$ |npx |bunx )*ggml-rpc +([a-z]+)([^#|&]*)/.exec(line.trim()) ?? []
    return command === undefined ? [] : [{ path, command, rest: rest.trim() }]
  })
})

test("documents name commands and flags that there are", () => {
  expect(calls.length).toBeGreaterThan(15)
  for (const { path, command, rest } of calls) {
    expect([path, command, Object.hasOwn(commands, command)]).toEqual([path, command, true])
    const known = Object.values(flagsOf(command as CommandName)).flatMap(allSpellings)
    const flags = rest.split(/[ =]/).filter((word) => /^-+[a-z]/i.test(word))
    const wrong = flags.filter((flag) => !known.includes(flag))
    expect([path, command, rest, wrong]).toEqual([path, command, rest, []])
  }
})

test("examples of the help can be read", () => {
  for (const name of Object.keys(commands) as ReadonlyArray<CommandName>) {
    for (const example of commands[name].examples) {
      const [, words] = /ggml-rpc ([^>|)"]*)/.exec(example.replaceAll(/'[^']*'/g, "text"))!
      const { kind } = readArgs(words!.trim().split(" "))
      expect([example, kind]).toEqual([example, "command"])
    }
  }
})
