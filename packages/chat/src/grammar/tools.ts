/** Grammars of answers that are tool calls, as the model's family writes them. */
import { parametersOf, type Tool, type ToolChoice } from "../messages.ts"
import type { OutputFormat } from "../output/format.ts"
import { GEMMA } from "../output/readGemma.ts"
import type { JsonCalls, NamedCalls, TaggedCalls, ToolSyntax } from "../output/syntax.ts"
import type { ChatTemplate } from "../template/ChatTemplate.ts"
import { Gbnf, literal, untilText } from "./Gbnf.ts"
import * as Json from "./json.ts"
import { membersInOrder } from "./members.ts"
import { SchemaRules } from "./schema.ts"

export interface ToolGrammarOptions {
  /** The prompt that the text continues: it tells whether the model thinks already. */
  readonly prompt: string
  /** Whether there may be several calls. Default: true. */
  readonly parallel?: boolean | undefined
}

/**
 * GBNF that makes a model call one of the tools, or the one that `choice` names, after it has thought; undefined where it need
 * not call any.
 *
 * @throws {SchemaError} for a tool whose parameters are no JSON schema
 */
export const grammarOfTools = (
  template: ChatTemplate,
  tools: ReadonlyArray<Tool>,
  choice: ToolChoice,
  { prompt, parallel = true }: ToolGrammarOptions,
): string | undefined => {
  if (choice === "auto" || choice === "none" || tools.length === 0) return undefined
  const wanted = typeof choice === "string" ? undefined : choice.function.name
  const callable = tools.filter(({ function: { name } }) => wanted === undefined || name === wanted)
  const format = template.formatFor(tools)
  const grammar = new Gbnf()
  const root = grammar.reserve("root")
  const calls = callsBody(grammar, format.tools, callable, parallel)
  grammar.define(root, `${thoughts(grammar, format, prompt)} (${calls})`.trim())
  return grammar.toString()
}

/** Thoughts that were begun have to end; others may be there. */
const thoughts = (
  grammar: Gbnf,
  { thoughts: marks, tools }: OutputFormat,
  prompt: string,
): string => {
  if (tools.shape === "harmony") {
    const rest = untilText(grammar, "thoughts", "<|end|>")
    return `(${literal("<|channel|>analysis<|message|>")} ${rest} ${literal("<|start|>assistant")})?`
  }
  if (marks === undefined) return ""
  const [open, close] = marks
  const rest = `${untilText(grammar, "thoughts", close)} [ \\n]{0,4}`
  return prompt.trimEnd().endsWith(open) ? rest : `(${literal(open)} ${rest})?`
}

const callsBody = (
  grammar: Gbnf,
  syntax: ToolSyntax,
  tools: ReadonlyArray<Tool>,
  parallel: boolean,
): string => {
  const each = tools.map((tool) => callRule(grammar, syntax, tool)).join(" | ")
  const call = grammar.add("call", each)
  const gap = Json.space(grammar)
  const more = (separator: string): string => (parallel ? ` (${separator} ${call})*` : "")
  switch (syntax.shape) {
    case "json": {
      const [open, close] = [literal(syntax.opens[0]!), literal(syntax.close ?? "")]
      if (syntax.isList) {
        return `${open} ${gap} "[" ${gap} ${call}${more(`"," ${gap}`)} ${gap} "]" ${gap} ${close}`
      }
      if (syntax.isBare) return call
      const tagged = grammar.add("tagged-call", `${open} ${gap} ${call} ${gap} ${close}`)
      return parallel ? `${tagged} (${gap} ${tagged})*` : tagged
    }
    case "named":
    case "tagged": {
      const { section } = syntax
      if (section === undefined) return `${call}${more(gap)}`
      if (!wrapsEachCall(syntax)) {
        return `${literal(section[0])} ${gap} ${call}${more(gap)} ${gap} ${literal(section[1])}`
      }
      const one = grammar.add(
        "section",
        `${literal(section[0])} ${gap} ${call} ${gap} ${literal(section[1])}`,
      )
      return parallel ? `${one} (${gap} ${one})*` : one
    }
    case "harmony":
      return call
    case "gemma":
      return `${call}${more(gap)}`
    case "recipient":
      return `${call}${more('">>>"')}`
  }
}

/** Qwen3-Coder puts each call into a section of its own. */
const wrapsEachCall = ({ section }: NamedCalls | TaggedCalls): boolean =>
  section?.[0] === "<tool_call>"

const callRule = (grammar: Gbnf, syntax: ToolSyntax, tool: Tool): string => {
  const { name } = tool.function
  if (syntax.shape === "tagged") return taggedCall(grammar, syntax, tool)
  if (syntax.shape === "gemma") return gemmaCall(grammar, tool)
  const schema = parametersOf(tool)
  const args = new SchemaRules(grammar, schema).rule(schema, "$", `${name}-arguments`)
  switch (syntax.shape) {
    case "json":
      return grammar.add(`${name}-call`, jsonCall(grammar, syntax, name, args))
    case "named": {
      const { open, separator, close, isNameId, idMark } = syntax
      const label = isNameId ? `${literal(`functions.${name}:`)} [0-9]{1,3}` : literal(name)
      const id = idMark === undefined ? "" : ` (${literal(idMark)} [a-zA-Z0-9]{9})?`
      return grammar.add(
        `${name}-call`,
        `${literal(open)} ${label}${id} ${literal(separator)} ${args} ${literal(close)}`,
      )
    }
    case "harmony": {
      const header = literal(`<|channel|>commentary to=functions.${name} `)
      return grammar.add(`${name}-call`, `${header} "<|constrain|>"? "json<|message|>" ${args}`)
    }
    case "recipient":
      return grammar.add(`${name}-call`, `${literal(`${name}\n`)} ${args}`)
  }
}

const jsonCall = (
  grammar: Gbnf,
  { keys, idBefore, idAfter }: JsonCalls,
  name: string,
  args: string,
): string => {
  const gap = Json.space(grammar)
  const member = (key: string, value: string): string =>
    `${literal(JSON.stringify(key))} ${gap} ":" ${gap} ${value}`
  const id = '"\\"" [a-zA-Z0-9]{1,32} "\\""'
  const before = idBefore === undefined ? "" : `(${member(idBefore, id)} "," ${gap})?`
  const after = idAfter === undefined ? "" : `("," ${gap} ${member(idAfter, id)})?`
  const named = member(keys.name, literal(JSON.stringify(name)))
  return `"{" ${gap} ${before} ${named} "," ${gap} ${member(keys.arguments, args)} ${after} ${gap} "}"`
}

/** A mark in which models put other white space than their templates do. */
const looseMark = (grammar: Gbnf, mark: string): string =>
  mark
    .split("\n")
    .map((part) => literal(part))
    .join(` ${Json.space(grammar)} `)

/** Each argument in its marks: texts up to the closing one, the others as JSON. */
const taggedCall = (grammar: Gbnf, syntax: TaggedCalls, tool: Tool): string => {
  const { open, nameEnd, close, argument, hasLines, isTyped } = syntax
  const { name } = tool.function
  const schema = parametersOf(tool)
  const properties = (schema.properties ?? {}) as Readonly<Record<string, { type?: unknown }>>
  const required = (schema.required ?? []) as ReadonlyArray<string>
  const rules = new SchemaRules(grammar, schema)
  const gap = Json.space(grammar)
  const line = hasLines ? "\n" : ""
  const members = Object.entries(properties).map(([key, property]) => {
    const isText = property.type === "string"
    const end = isTyped ? `" string="${isText}">` : argument.nameEnd
    const value = isText
      ? untilText(grammar, `${name}-${key}-text`, `${line}${argument.close}`)
      : `${rules.rule(property, `$.properties.${key}`, `${name}-${key}`)} ${literal(`${line}${argument.close}`)}`
    const member = grammar.add(
      `${name}-${key}-argument`,
      `${literal(`${argument.open}${key}`)} ${looseMark(grammar, end)} ${literal(line)} ${value} ${gap}`,
    )
    return required.includes(key) ? member : `${member}?`
  })
  return grammar.add(
    `${name}-call`,
    `${literal(`${open}${name}`)} ${looseMark(grammar, nameEnd)} ${gap} ${members.join(" ")} ${literal(close)}`,
  )
}

/** Arguments by their names, in order; each is of any kind, for no schema is written in this syntax. */
const gemmaCall = (grammar: Gbnf, tool: Tool): string => {
  const { name } = tool.function
  const { properties = {}, required = [] } = parametersOf(tool) as {
    readonly properties?: Readonly<Record<string, unknown>>
    readonly required?: ReadonlyArray<string>
  }
  const value = gemmaValue(grammar)
  const members = Object.keys(properties).map((key) => ({
    rule: grammar.add(`${name}-${key}-argument`, `${literal(`${key}:`)} ${value}`),
    isRequired: required.includes(key),
  }))
  const args = membersInOrder(grammar, members, `${name}-arguments`, { comma: '","' })
  return grammar.add(
    `${name}-call`,
    `${literal(`${GEMMA.open}${name}{`)} ${args} "}" ${literal(GEMMA.close)}`,
  )
}

const gemmaValue = (grammar: Gbnf): string =>
  grammar.shared("gemma-value", () => {
    const text = `${literal(GEMMA.quote)} ${untilText(grammar, "gemma-text", GEMMA.quote)}`
    const key = "[a-zA-Z0-9_-]+"
    const member = `${key} ":" gemma-value`
    return [
      text,
      Json.number(grammar),
      Json.boolean(grammar),
      Json.nothing(grammar),
      '"[" (gemma-value ("," gemma-value)*)? "]"',
      `"{" (${member} ("," ${member})*)? "}"`,
    ].join(" | ")
  })
