/** What a template cannot say, said with what it can. */
import { type ChatMessage, contentText, type Tool, type ToolCall } from "../messages.ts"
import { type ToolSyntax, writtenCall } from "../output/syntax.ts"
import type { TemplateCapabilities } from "./capabilities.ts"

/** The first system message as the beginning of the message after it; one that is alone is left out. */
export const mergeSystemMessage = (
  messages: ReadonlyArray<ChatMessage>,
): ReadonlyArray<ChatMessage> => {
  const [system, next, ...rest] = messages
  if (system?.role !== "system") return messages
  if (next === undefined) return []
  const content = `${contentText(system.content)}\n${contentText(next.content)}`
  return [{ ...next, content }, ...rest]
}

/** The tools and how to call them, as an addition to the system message. */
export const withToolInstructions = (
  messages: ReadonlyArray<ChatMessage>,
  tools: ReadonlyArray<Tool>,
  syntax: ToolSyntax,
): ReadonlyArray<ChatMessage> => {
  const list = tools.map((tool) => JSON.stringify(tool)).join("\n")
  const example = writtenCall(syntax, "<name of the tool>", "<its arguments as a JSON object>")
  const instructions = `You can call these tools, described as JSON:\n<tools>\n${list}\n</tools>\nTo call one, write\n${example}`
  const [first, ...rest] = messages
  return first?.role === "system"
    ? [{ ...first, content: `${contentText(first.content)}\n\n${instructions}` }, ...rest]
    : [{ role: "system", content: instructions }, ...messages]
}

/** Tool calls as the assistant's text, and their results as the user's, where a template leaves them out. */
export const showToolMessages = (
  messages: ReadonlyArray<ChatMessage>,
  { showsToolCalls, showsToolResults }: TemplateCapabilities,
  syntax: ToolSyntax,
): ReadonlyArray<ChatMessage> => {
  const shown: ChatMessage[] = []
  for (const [index, message] of messages.entries()) {
    const { tool_calls: calls, content, ...rest } = message
    if (calls !== undefined && calls !== null && !showsToolCalls) {
      const texts = [contentText(content), ...calls.map((call) => callText(call, syntax))]
      shown.push({ ...rest, content: texts.filter(Boolean).join("\n") })
    } else if (message.role !== "tool" || showsToolResults) shown.push(message)
    else if (messages[index - 1]?.role !== "tool") {
      shown.push({ role: "user", content: resultText(message) })
    } else {
      // Results of one answer are one message: many templates want user and assistant in turns.
      const { content: before } = shown.pop()!
      shown.push({ role: "user", content: `${contentText(before)}\n${resultText(message)}` })
    }
  }
  return shown
}

const resultText = ({ name, content }: ChatMessage): string => {
  const result = { ...(name === undefined ? {} : { name }), content: contentText(content) }
  return `<tool_response>\n${JSON.stringify(result)}\n</tool_response>`
}

const callText = ({ function: { name, arguments: args } }: ToolCall, syntax: ToolSyntax): string =>
  writtenCall(syntax, name, typeof args === "string" ? args : JSON.stringify(args))
