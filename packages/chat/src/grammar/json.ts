/** Rules for JSON itself; what they take is llama.cpp's `json-schema-to-grammar` of v0.5. */
import type { Gbnf } from "./Gbnf.ts"

/** White space as models write it: no endless runs of it. */
export const space = (grammar: Gbnf): string =>
  grammar.shared("space", () => '| " " | "\\n"{1,2} [ \\t]{0,20}')

/** A character of a text, escaped where it has to be. */
export const char = (grammar: Gbnf): string =>
  grammar.shared(
    "char",
    () => '[^"\\\\\\x7F\\x00-\\x1F] | [\\\\] (["\\\\bfnrt] | "u" [0-9a-fA-F]{4})',
  )

export const string = (grammar: Gbnf): string =>
  grammar.shared("string", () => `"\\"" ${char(grammar)}* "\\""`)

export const integer = (grammar: Gbnf): string =>
  grammar.shared("integer", () => '"-"? ([0] | [1-9] [0-9]{0,15})')

export const number = (grammar: Gbnf): string =>
  grammar.shared("number", () => `${integer(grammar)} ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,15})?`)

export const boolean = (grammar: Gbnf): string =>
  grammar.shared("boolean", () => '"true" | "false"')

export const nothing = (grammar: Gbnf): string => grammar.shared("null", () => '"null"')

export const array = (grammar: Gbnf): string =>
  grammar.shared("array", () => {
    const [gap, item] = [space(grammar), value(grammar)]
    return `"[" ${gap} (${item} ("," ${gap} ${item})*)? ${gap} "]"`
  })

export const object = (grammar: Gbnf): string =>
  grammar.shared("object", () => {
    const gap = space(grammar)
    const member = `${string(grammar)} ":" ${gap} ${value(grammar)}`
    return `"{" ${gap} (${member} ("," ${gap} ${member})*)? ${gap} "}"`
  })

/** Any JSON. */
export const value = (grammar: Gbnf): string =>
  grammar.shared("value", () =>
    [object, array, string, number, boolean, nothing].map((rule) => rule(grammar)).join(" | "),
  )
