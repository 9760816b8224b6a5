/**
 * What a template does with messages, found out by rendering some with marked texts and looking for the marks:
 * no two templates say it in the same words.
 */
import type { Jinja } from "./Jinja.ts"

export interface TemplateCapabilities {
  /** Whether a system message is shown to the model. */
  readonly hasSystemRole: boolean
  /** Whether content that is a text is shown; some templates only take parts. */
  readonly takesText: boolean
  /** Whether content that is a list of parts is shown. */
  readonly takesParts: boolean
  /** Whether the tools are described to the model. */
  readonly describesTools: boolean
  /** Whether an assistant's tool calls are shown. */
  readonly showsToolCalls: boolean
  /** Whether arguments have to be an object; else they are JSON as text. */
  readonly takesObjectArguments: boolean
  /** Whether the messages that answer tool calls are shown. */
  readonly showsToolResults: boolean
  /** Whether the list of tools has to be there even if it is empty. */
  readonly needsToolList: boolean
}

const MARK = "<<mark>>"
const epoch = new Date(0)

const user = (content: unknown) => ({ role: "user", content })
const parts = (text: string) => [{ type: "text", text }]

const exampleTool = {
  type: "function",
  function: {
    name: "example_tool",
    description: MARK,
    parameters: { type: "object", properties: { arg: { type: "string", description: "a" } } },
  },
}

const conversation = (args: unknown, result: string, question: unknown, answer: unknown) => [
  user(question),
  {
    role: "assistant",
    content: "",
    tool_calls: [
      { id: "call00001", type: "function", function: { name: "example_tool", arguments: args } },
    ],
  },
  { role: "tool", name: "example_tool", tool_call_id: "call00001", content: result },
  { role: "assistant", content: answer },
  user(question),
]

export const capabilitiesOf = (template: Jinja): TemplateCapabilities => {
  const output = (messages: ReadonlyArray<unknown>, more: object = {}): string => {
    try {
      const variables = { bos_token: "", eos_token: "", add_generation_prompt: true, ...more }
      return template.render({ messages, ...variables }, epoch)
    } catch {
      return ""
    }
  }
  const needsToolList = output([user(MARK)]) === "" && output([user(MARK)], { tools: [] }) !== ""
  const plain = needsToolList ? { tools: [] } : {}
  const shows = (messages: ReadonlyArray<unknown>, more: object = plain): boolean =>
    output(messages, more).includes(MARK)

  const takesText = shows([user(MARK)])
  const printed = output([user(parts(MARK))], plain)
  // A template that takes content for a text shows the list itself.
  const takesParts = printed.includes(MARK) && !/["']type["']/.test(printed)
  const text = (value: string): unknown => (takesText || !takesParts ? value : parts(value))
  const chat = (args: unknown, result = "r") => conversation(args, result, text("q"), text("a"))
  const tools = { tools: [exampleTool] }
  const described = output([user(text("q"))], tools)
  const called = output(chat({ arg: "<<argument>>" }), tools)
  const calledByText = output(chat('{"arg": "<<argument>>"}'), tools)
  const takesArgumentText = calledByText.includes('"arg": "<<argument>>"')
  return {
    hasSystemRole: shows([{ role: "system", content: text(MARK) }, user(text("q"))]),
    takesText: takesText || !takesParts,
    takesParts,
    describesTools: described.includes(MARK),
    showsToolCalls: called.includes("<<argument>>") || takesArgumentText,
    takesObjectArguments: called.includes("<<argument>>"),
    showsToolResults: shows(chat({ arg: "x" }, MARK)) || shows(chat(`{"arg": "x"}`, MARK)),
    needsToolList,
  }
}
