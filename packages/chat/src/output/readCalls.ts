/** Reads tool calls behind the mark that opens them, whatever the family. */
import { type CallWriter, jsonOf, readCallObject } from "./calls.ts"
import { GEMMA, readGemmaCall } from "./readGemma.ts"
import type { JsonCalls, NamedCalls, TaggedCalls, ToolSyntax } from "./syntax.ts"
import type { Parsing, Sink, TextInput } from "./TextInput.ts"

interface Reading {
  readonly input: TextInput
  readonly calls: CallWriter
  readonly format: { readonly tools: ToolSyntax }
}

/** Marks at which an answer turns into calls. */
export const opensOf = (syntax: ToolSyntax): ReadonlyArray<string> => {
  switch (syntax.shape) {
    case "json":
      return syntax.opens
    case "named":
    case "tagged":
      return syntax.section === undefined ? [syntax.open] : [syntax.section[0], syntax.open]
    case "gemma":
      return [GEMMA.open]
    case "harmony":
    case "recipient":
      return []
  }
}

/** @param open the mark that was there, which is consumed; none where calls may be bare */
export function* readCalls(
  { input, calls, format: { tools: syntax } }: Reading,
  open: string | undefined,
  content: Sink,
): Parsing {
  switch (syntax.shape) {
    case "json":
      return yield* readJsonCalls(input, calls, syntax, open, content)
    case "named":
      return yield* readSection(syntax, input, open, () => readNamedCall(input, calls, syntax))
    case "tagged":
      return yield* readSection(syntax, input, open, () => readTaggedCall(input, calls, syntax))
    case "gemma":
      return yield* readGemmaCall(input, calls)
    case "harmony":
    case "recipient":
  }
}

function* readJsonCalls(
  input: TextInput,
  calls: CallWriter,
  { close = "" }: JsonCalls,
  open: string | undefined,
  content: Sink,
): Parsing {
  const before = yield* input.space()
  const list = yield* input.accept("[")
  for (;;) {
    yield* input.space()
    if ((yield* input.peek()) !== "{") break
    const text = yield* readCallObject(input, calls)
    const after = yield* input.space()
    // Not a call: what a model says about one is its answer.
    if (text !== undefined) content(`${open ?? before}${list ?? ""}${text}${after}`)
    if (list === undefined || (yield* input.accept(",")) === undefined) break
  }
  if (list !== undefined) yield* input.accept("]")
  yield* input.space()
  if (close !== "") yield* input.accept(close)
  // Llama separates several bare calls by semicolons.
  if (open === undefined && (yield* input.accept(";")) !== undefined) {
    yield* readJsonCalls(input, calls, { close } as JsonCalls, open, content)
  }
}

/** The calls of a section up to its end; without a section, the one whose mark was there. */
function* readSection(
  { section, open: callOpen }: NamedCalls | TaggedCalls,
  input: TextInput,
  open: string | undefined,
  readCall: () => Parsing,
): Parsing {
  if (open === callOpen) yield* readCall()
  if (section === undefined) return
  for (;;) {
    const mark = yield* input.until([callOpen, section[1]], () => {})
    if (mark !== callOpen) return
    yield* readCall()
  }
}

function* readNamedCall(
  input: TextInput,
  calls: CallWriter,
  { separator, close, isNameId, idMark }: NamedCalls,
): Parsing {
  let name = ""
  let id: string | undefined
  const marks = idMark === undefined ? [separator] : [separator, idMark]
  let mark = yield* input.until(marks, (text) => (name += text))
  if (mark !== undefined && mark === idMark) {
    id = ""
    mark = yield* input.until([separator], (text) => (id += text))
  }
  if (mark === undefined) return
  name = name.trim()
  if (isNameId) {
    id = name
    name = name.replace(/^functions\./, "").replace(/:\d+$/, "")
  }
  calls.begin(name, id)
  yield* input.space()
  if ((yield* input.peek()) === "{") yield* input.json((text) => calls.args(text))
  calls.end()
  if (close !== "") yield* input.until([close], () => {})
}

function* readTaggedCall(input: TextInput, calls: CallWriter, syntax: TaggedCalls): Parsing {
  const { nameEnd, close, argument } = syntax
  let name = ""
  // A call without arguments may close without the end of its name: GLM's.
  const named = yield* input.until([nameEnd, argument.open, close], (text) => (name += text))
  if (named === undefined) return
  calls.begin(name.trim())
  let mark: string | undefined = named
  let count = 0
  for (;;) {
    if (mark === nameEnd) mark = yield* input.until([argument.open, close], () => {})
    if (mark !== argument.open) break
    calls.args(count++ === 0 ? "{" : ", ")
    yield* readTaggedArgument(input, calls, syntax, name.trim())
    mark = yield* input.until([argument.open, close], () => {})
  }
  if (count > 0) calls.args("}")
  calls.end()
}

function* readTaggedArgument(
  input: TextInput,
  calls: CallWriter,
  { argument, hasLines, isTyped }: TaggedCalls,
  call: string,
): Parsing {
  let key = ""
  const [first, rest] = splitEnd(argument.nameEnd)
  const ends = isTyped ? ['" string="true">', '" string="false">'] : [first]
  const end = yield* input.until(ends, (text) => (key += text))
  key = key.trim()
  if (rest !== "") {
    yield* input.space()
    yield* input.accept(rest)
  }
  if (hasLines) yield* input.accept("\n")
  calls.args(`${JSON.stringify(key)}: `)
  const isText = isTyped ? end === ends[0] : calls.isText(call, key)
  if (isText === true) return yield* readText(input, calls, argument.close, hasLines)
  let value = ""
  yield* input.until([argument.close], (text) => (value += text))
  calls.args(jsonOf(hasLines ? value.replace(/\n$/, "") : value))
}

/** A text as it comes; the line feed before its closing mark is none of its own. */
function* readText(input: TextInput, calls: CallWriter, close: string, hasLines: boolean): Parsing {
  calls.args('"')
  const marks = hasLines ? [`\n${close}`, close] : [close]
  yield* input.until(marks, (text) => calls.args(JSON.stringify(text).slice(1, -1)))
  calls.args('"')
}

/** Models put other white space between two marks than their templates do. */
const splitEnd = (mark: string): readonly [first: string, rest: string] => {
  const at = mark.indexOf("\n")
  return at < 0 ? [mark, ""] : [mark.slice(0, at), mark.slice(at + 1)]
}
