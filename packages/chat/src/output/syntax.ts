/**
 * How models write tool calls, as data: the families differ in their marks far more than in what lies between them.
 * The marks are those of the templates and parsers of llama.cpp v0.5 (models/templates, common/chat.cpp).
 */

/** `{"name": "f", "arguments": {…}}`, one or a list of them, behind a mark. */
export interface JsonCalls {
  readonly shape: "json"
  readonly opens: ReadonlyArray<string>
  readonly close?: string
  /** Whether calls are the members of one list. */
  readonly isList: boolean
  readonly keys: { readonly name: string; readonly arguments: string }
  /** Member that is a call's id, before or after the others; a model may leave it out. */
  readonly idBefore?: string
  readonly idAfter?: string
  /** Whether an answer that is a bare object with a tool's name is a call as well. */
  readonly isBare?: boolean
}

/** The name behind a mark, then `{…}`. */
export interface NamedCalls {
  readonly shape: "named"
  /** Around all calls. */
  readonly section?: readonly [open: string, close: string]
  readonly open: string
  /** Between name and arguments. */
  readonly separator: string
  readonly close: string
  /** Whether what stands there is `functions.NAME:INDEX`, which is the call's id too. */
  readonly isNameId?: boolean
  /** Between name and separator, before the call's id. */
  readonly idMark?: string
}

/** Every argument between marks of its own; texts without quotes. */
export interface TaggedCalls {
  readonly shape: "tagged"
  readonly section?: readonly [open: string, close: string]
  readonly open: string
  /** Ends the name. */
  readonly nameEnd: string
  readonly close: string
  readonly argument: {
    readonly open: string
    readonly nameEnd: string
    readonly close: string
  }
  /** Line feeds that stand between marks and values and belong to neither. */
  readonly hasLines: boolean
  /** Whether `nameEnd` of an argument says if it is a text: `" string="true">`. */
  readonly isTyped?: boolean
}

/** OpenAI's channels, which hold thoughts, answers and calls alike. */
export interface HarmonyCalls {
  readonly shape: "harmony"
}

/** Functionary 3.2: `>>>all` before content, `>>>NAME` before arguments. */
export interface RecipientCalls {
  readonly shape: "recipient"
}

/** Gemma 4's JSON without quotes. */
export interface GemmaCalls {
  readonly shape: "gemma"
}

export type ToolSyntax =
  | JsonCalls
  | NamedCalls
  | TaggedCalls
  | HarmonyCalls
  | RecipientCalls
  | GemmaCalls

const named = { name: "name", arguments: "arguments" }

export const hermes: JsonCalls = {
  shape: "json",
  opens: ["<tool_call>"],
  close: "</tool_call>",
  isList: false,
  keys: named,
}

const tagged = (open: string, close: string): TaggedCalls => ({
  shape: "tagged",
  section: [open, close],
  open: "<function=",
  nameEnd: ">",
  close: "</function>",
  argument: { open: "<parameter=", nameEnd: ">", close: "</parameter>" },
  hasLines: true,
})

const invocations = (prefix: string, section: readonly [string, string]): TaggedCalls => ({
  shape: "tagged",
  section,
  open: `<${prefix}invoke name="`,
  nameEnd: '">',
  close: `</${prefix}invoke>`,
  argument: { open: `<${prefix}parameter name="`, nameEnd: '">', close: `</${prefix}parameter>` },
  hasLines: false,
})

const jsonList = (open: string, close: string, keys = named): JsonCalls => ({
  shape: "json",
  opens: [open],
  close,
  isList: true,
  keys,
})

/** A family, and the texts in a template by which it is known: all of one of the lists. */
interface Family {
  readonly isKnownBy: (has: (text: string) => boolean) => boolean
  readonly syntax: ToolSyntax
}

/** The first that a template fits is its own. */
const families: ReadonlyArray<Family> = [
  { isKnownBy: (has) => has("<|channel|>"), syntax: { shape: "harmony" } },
  {
    isKnownBy: (has) => has(">>>all"),
    syntax: { shape: "recipient" },
  },
  { isKnownBy: (has) => has("<|tool_call>call:"), syntax: { shape: "gemma" } },
  {
    isKnownBy: (has) => has("<|tool_calls_section_begin|>") && has("<|tool_call_begin|>"),
    syntax: {
      shape: "named",
      section: ["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"],
      open: "<|tool_call_begin|>",
      separator: "<|tool_call_argument_begin|>",
      close: "<|tool_call_end|>",
      isNameId: true,
    },
  },
  {
    isKnownBy: (has) => has("dsml_token") && has("DSML") && has("function_calls"),
    syntax: {
      ...invocations("｜DSML｜", ["<｜DSML｜function_calls>", "</｜DSML｜function_calls>"]),
      isTyped: true,
    },
  },
  {
    isKnownBy: (has) => has("dsml_token") && has("DSML") && has("tool_calls"),
    syntax: {
      ...invocations("｜DSML｜", ["<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>"]),
      isTyped: true,
    },
  },
  {
    isKnownBy: (has) => has("<｜tool▁calls▁begin｜>") && has("```json"),
    syntax: {
      shape: "named",
      section: ["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"],
      open: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
      separator: "\n```json\n",
      close: "\n```<｜tool▁call▁end｜>",
    },
  },
  {
    isKnownBy: (has) => has("<｜tool▁calls▁begin｜>"),
    syntax: {
      shape: "named",
      section: ["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"],
      open: "<｜tool▁call▁begin｜>",
      separator: "<｜tool▁sep｜>",
      close: "<｜tool▁call▁end｜>",
    },
  },
  {
    isKnownBy: (has) => has("[TOOL_CALLS]") && has("[CALL_ID]"),
    syntax: {
      shape: "named",
      open: "[TOOL_CALLS]",
      separator: "[ARGS]",
      close: "",
      idMark: "[CALL_ID]",
    },
  },
  {
    isKnownBy: (has) => has("[TOOL_CALLS]") && has("[ARGS]"),
    syntax: { shape: "named", open: "[TOOL_CALLS]", separator: "[ARGS]", close: "" },
  },
  {
    isKnownBy: (has) => has("[TOOL_CALLS]"),
    syntax: { ...jsonList("[TOOL_CALLS]", ""), idAfter: "id" },
  },
  {
    isKnownBy: (has) => has("<minimax:tool_call>"),
    syntax: invocations("", ["<minimax:tool_call>", "</minimax:tool_call>"]),
  },
  {
    isKnownBy: (has) => has("<seed:tool_call>"),
    syntax: tagged("<seed:tool_call>", "</seed:tool_call>"),
  },
  {
    isKnownBy: (has) => has("<tool_call>") && has("<arg_key>"),
    syntax: {
      shape: "tagged",
      open: "<tool_call>",
      nameEnd: "\n",
      close: "</tool_call>",
      argument: { open: "<arg_key>", nameEnd: "</arg_key>\n<arg_value>", close: "</arg_value>" },
      hasLines: false,
    },
  },
  {
    isKnownBy: (has) => has("<tool_call>") && has("<function=") && has("<parameter="),
    syntax: tagged("<tool_call>", "</tool_call>"),
  },
  {
    isKnownBy: (has) => has("<|START_ACTION|>"),
    syntax: {
      ...jsonList("<|START_ACTION|>", "<|END_ACTION|>", {
        name: "tool_name",
        arguments: "parameters",
      }),
      idBefore: "tool_call_id",
    },
  },
  {
    isKnownBy: (has) => has("<function=") && has("</function>"),
    syntax: { shape: "named", open: "<function=", separator: ">", close: "</function>" },
  },
  {
    isKnownBy: (has) => has("<|function_call|>"),
    syntax: { shape: "json", opens: ["<|function_call|>"], isList: false, keys: named },
  },
  {
    isKnownBy: (has) => has("<|role_sep|>") && has("<|message_sep|>"),
    syntax: { shape: "json", opens: ["function call<|role_sep|>"], isList: false, keys: named },
  },
  { isKnownBy: (has) => has("<TOOLCALL>"), syntax: jsonList("<TOOLCALL>", "</TOOLCALL>") },
  { isKnownBy: (has) => has("<tool_call>"), syntax: hermes },
  { isKnownBy: (has) => has("<tool_calls>"), syntax: jsonList("<tool_calls>", "</tool_calls>") },
  { isKnownBy: (has) => has("functools["), syntax: jsonList(" functools", "") },
  { isKnownBy: (has) => has("<|tool_call|>"), syntax: jsonList("<|tool_call|>", "") },
  {
    isKnownBy: (has) => has("<|start_header_id|>") && has('"parameters"'),
    syntax: {
      shape: "json",
      opens: ["<|python_tag|>"],
      isList: false,
      keys: { name: "name", arguments: "parameters" },
      isBare: true,
    },
  },
]

/** The syntax of a template's family; Hermes's where it belongs to none. */
export const syntaxOf = (source: string): ToolSyntax =>
  families.find(({ isKnownBy }) => isKnownBy((text) => source.includes(text)))?.syntax ?? hermes

/**
 * One call as a model of this family writes it, for a template that says nothing of tools; the families that write
 * their arguments apart all do.
 */
export const writtenCall = (syntax: ToolSyntax, name: string, args: string): string => {
  if (syntax.shape === "named") {
    const [before, after] = syntax.section ?? ["", ""]
    return `${before}${syntax.open}${name}${syntax.separator}${args}${syntax.close}${after}`
  }
  const { opens, close, keys, isList } = syntax.shape === "json" ? syntax : hermes
  const call = `{"${keys.name}": ${JSON.stringify(name)}, "${keys.arguments}": ${args}}`
  const [before, after] = isList ? ["[", "]"] : ["\n", "\n"]
  return `${opens[0]}${before}${call}${after}${close ?? ""}`
}
