import { describe, expect, test } from "bun:test"
import {
  COMMAND_COUNT,
  Command,
  commandName,
  commandSpec,
  describeCommand,
  formatVersion,
  newest,
  versions,
} from "./index.ts"

test("every id has its name and back, without gaps", () => {
  const ids = Object.values(Command)
  expect<readonly number[]>(ids).toEqual(Array.from({ length: COMMAND_COUNT }, (_, id) => id))
  for (const [name, id] of Object.entries(Command)) {
    expect<string | undefined>(commandName(id)).toBe(name)
    expect(describeCommand(id)).toBe(name)
  }
  expect(commandName(23)).toBeUndefined()
  expect(describeCommand(23)).toBe("command 23")
})

test("a table without a command makes it unknown", () => {
  const { GET_TENSOR, ...commands } = newest.commands
  expect(GET_TENSOR).toBeDefined()
  expect(commandSpec(Command.GET_TENSOR, { ...newest, commands })).toBeUndefined()
})

describe("each version has the commands that its release knew", () => {
  /** Commands that did not exist before. */
  const since: { readonly [version: string]: number } = {
    "2.0.0": 15,
    "3.0.0": 16,
    "3.5.0": 17,
    "5.0.0": 18,
    "8.0.0": 23,
  }
  let count = 0
  for (const spec of versions.toReversed()) {
    const version = formatVersion(spec.version)
    count = since[version] ?? count
    const expected = count
    test(version, () => {
      const known = Object.values(Command).filter((id) => commandSpec(id, spec) !== undefined)
      expect<readonly number[]>(known).toEqual(Array.from({ length: expected }, (_, id) => id))
    })
  }
})
