/** Tool calls as they are read, and the tools that may be meant. */
import type { Tool } from "../messages.ts"
import type { Parsing, TextInput } from "./TextInput.ts"

/** What reading an answer gives, in order. */
export type OutputDelta =
  | { readonly type: "reasoning"; readonly text: string }
  | { readonly type: "content"; readonly text: string }
  /** A tool call begins; `index` counts the calls of the answer. */
  | {
      readonly type: "toolCall"
      readonly index: number
      readonly id: string
      readonly name: string
    }
  /** A piece of the JSON text of the call's arguments. */
  | { readonly type: "toolArguments"; readonly index: number; readonly text: string }

/** Collects the calls of one answer. */
export class CallWriter {
  #index = -1
  #hasArguments = true
  readonly #ids = new Set<string>()
  readonly #emit: (delta: OutputDelta) => void
  readonly #tools: ReadonlyMap<string, Tool>

  constructor(emit: (delta: OutputDelta) => void, tools: ReadonlyArray<Tool>) {
    this.#emit = emit
    this.#tools = new Map(tools.map((tool) => [tool.function.name, tool]))
  }

  begin(name: string, id?: string): void {
    this.end()
    this.#index++
    this.#hasArguments = false
    const isFresh = id !== undefined && id !== "" && !this.#ids.has(id)
    const given = isFresh ? id : newCallId()
    this.#ids.add(given)
    this.#emit({ type: "toolCall", index: this.#index, id: given, name })
  }

  /** A piece of the arguments' JSON. */
  args(text: string): void {
    if (text === "") return
    this.#hasArguments = true
    this.#emit({ type: "toolArguments", index: this.#index, text })
  }

  /** A call without arguments has an empty object. */
  end(): void {
    if (!this.#hasArguments) this.args("{}")
  }

  isKnown(name: string): boolean {
    return this.#tools.has(name)
  }

  /** Whether a parameter is a text by its schema; undefined when the schema does not say. */
  isText(name: string, parameter: string): boolean | undefined {
    const properties = this.#tools.get(name)?.function.parameters?.properties
    const schema = (properties as Record<string, Schema> | undefined)?.[parameter]
    if (schema === undefined) return undefined
    const { type, enum: values } = schema
    if (type !== undefined) return type === "string"
    return values?.every((value) => typeof value === "string")
  }
}

interface Schema {
  readonly type?: unknown
  readonly enum?: ReadonlyArray<unknown>
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

/** Nine letters and digits: Mistral's templates take no other ids. */
const newCallId = (): string =>
  Array.from(crypto.getRandomValues(new Uint32Array(9)), (value) => alphabet[value % 62]).join("")

const nameKeys = ["name", "tool_name"]
const argumentKeys = ["arguments", "parameters"]
const idKeys = ["id", "tool_call_id"]

/**
 * Reads `{"name": …, "arguments": …}` in any order of its members, or OpenAI's `{"function": {…}}`; arguments are given
 * out as they come once the name is known. Returns the text where it is no call, and so nothing was given out.
 */
export function* readCallObject(input: TextInput, calls: CallWriter): Parsing<string | undefined> {
  let raw = ""
  let [name, id, args]: (string | undefined)[] = []
  let hasBegun = false
  const begin = (): void => {
    calls.begin(name!, id)
    hasBegun = true
    if (args !== undefined) calls.args(args)
  }
  if ((yield* input.accept("{")) === undefined) return raw
  raw += "{"
  for (;;) {
    raw += yield* input.space()
    if ((yield* input.accept("}")) !== undefined) break
    const separator = yield* input.accept(",")
    raw += (separator ?? "") + (yield* input.space())
    let key = ""
    const isKey = (yield* input.peek()) === '"' && (yield* input.json((text) => (key += text)))
    raw += key + (yield* input.space())
    if (!isKey || (yield* input.accept(":")) === undefined) return hasBegun ? undefined : raw
    raw += `:${yield* input.space()}`
    const member = parsed(key)
    if (member === "function" && (yield* input.peek()) === "{") {
      const rest = yield* readCallObject(input, calls)
      if (rest !== undefined) return raw + rest
      hasBegun = true
      continue
    }
    const isArguments = argumentKeys.includes(String(member))
    if (isArguments && !hasBegun && name !== undefined) begin()
    let value = ""
    const streams = isArguments && hasBegun && (yield* input.peek()) === "{"
    const isWhole = yield* input.json((text) => {
      value += text
      if (streams) calls.args(text)
    })
    raw += value
    if (!isWhole) return hasBegun ? undefined : raw
    if (nameKeys.includes(String(member))) name = String(parsed(value))
    else if (member === "function" && name === undefined) name = String(parsed(value))
    else if (idKeys.includes(String(member))) id = String(parsed(value))
    else if (isArguments && !streams) {
      args = argumentsText(value)
      if (hasBegun) calls.args(args)
    }
  }
  if (!hasBegun) {
    if (name === undefined) return `${raw}}`
    begin()
  }
  calls.end()
  return undefined
}

/** Arguments that a model wrote as a text with JSON in it become that JSON. */
const argumentsText = (value: string): string => {
  const given = parsed(value)
  return typeof given === "string" && typeof parsed(given) === "object" ? given : value
}

const parsed = (json: string): unknown => {
  try {
    return JSON.parse(json)
  } catch {
    return undefined
  }
}

/** The JSON of a value that a model wrote without quotes: JSON where it is some, else a text. */
export const jsonOf = (text: string): string =>
  parsed(text) === undefined ? JSON.stringify(text) : text.trim()
