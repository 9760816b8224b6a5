/** A file of settings: JSON, with values by the long names of flags, for all commands that have them or under a command's name. */
import { readFileSync } from "node:fs"
import { homedir } from "node:os"
import { join } from "node:path"
import { closest } from "./closest.ts"
import { type CommandName, commands } from "./flags/commands.ts"
import type { ReadFlag, Texts } from "./flags/Flag.ts"
import type { Source } from "./Source.ts"
import { UsageError } from "./UsageError.ts"

/**
 * @param path the file that was asked for; absent: the one that may be in the user's folder
 * @throws {UsageError}
 */
export const configFile = (
  command: CommandName,
  path: string | undefined,
  environment: Readonly<Record<string, string | undefined>>,
): Source => {
  const file = path ?? defaultPath(environment)
  const settings = parsed(file, path !== undefined)
  check(file, settings)
  const own = settings[command]
  const all: Fields = { ...settings, ...(isFields(own) ? own : {}) }
  const nameOf = ({ name }: ReadFlag) => `"${name}" in ${file}`
  return {
    nameOf,
    textsOf: (flag) =>
      Object.hasOwn(all, flag.name) ? textsOf(all[flag.name], flag, nameOf(flag)) : undefined,
  }
}

type Fields = Readonly<Record<string, unknown>>

const isFields = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const defaultPath = (environment: Readonly<Record<string, string | undefined>>): string =>
  join(environment.XDG_CONFIG_HOME || join(homedir(), ".config"), "ggml-rpc", "config.json")

const parsed = (path: string, isAsked: boolean): Fields => {
  let text: string
  try {
    text = readFileSync(path, "utf8")
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (!isAsked && (code === "ENOENT" || code === "ENOTDIR")) return {}
    throw new UsageError(`the settings in ${path} cannot be read: ${message}`)
  }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new UsageError(`the settings in ${path} are not JSON: ${(error as Error).message}`)
  }
  if (isFields(value)) return value
  throw new UsageError(`the settings in ${path} are not a JSON object`)
}

/** A name that is none would be a setting without effect. */
const check = (path: string, settings: Fields): void => {
  const namesOf = (command: CommandName) =>
    Object.values(commands[command].flags).map(({ name }) => name)
  const names = Object.keys(commands) as ReadonlyArray<CommandName>
  for (const [key, value] of Object.entries(settings)) {
    const command = names.find((name) => name === key)
    // A flag may have a command's name.
    const isOwn = command !== undefined && isFields(value)
    if (isOwn) checkNames(`${path}, "${key}"`, Object.keys(value), namesOf(command))
    else checkNames(path, [key], names.flatMap(namesOf))
  }
}

const checkNames = (
  place: string,
  given: ReadonlyArray<string>,
  known: ReadonlyArray<string>,
): void => {
  const wrong = given.find((name) => !known.includes(name))
  if (wrong === undefined) return
  const guess = closest(wrong, known)
  throw new UsageError(
    `the settings in ${place} have '${wrong}', which is no flag's long name${guess === undefined ? "" : `; did you mean '${guess}'?`}`,
  )
}

const textsOf = (value: unknown, { kind }: ReadFlag, source: string): Texts => {
  const [first, ...more] = [value].flat().map((part) => textOf(part, source))
  if (first === undefined) throw new UsageError(`${source} is an empty list`)
  return kind.isList ? [first, ...more] : [[first, ...more].join(",")]
}

const textOf = (value: unknown, source: string): string => {
  if (["string", "number", "boolean"].includes(typeof value)) return String(value)
  throw new UsageError(
    `${source} takes a text, a number, true or false, not ${JSON.stringify(value)}`,
  )
}
