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
): ReadonlyArray<ChatMessage> =>
  messages.map((message) => {
    const { tool_calls: calls, content, ...rest } = message
    if (calls !== undefined && calls !== null && !showsToolCalls) {
      const texts = [contentText(content), ...calls.map((call) => callText(call, syntax))]
      return { ...rest, content: texts.filter(Boolean).join("\n") }
    }
    if (message.role === "tool" && !showsToolResults) {
      const { name } = message
      const result = JSON.stringify({
        ...(name === undefined ? {} : { name }),
        content: contentText(content),
      })
      return { role: "user", content: `<tool_response>\n${result}\n</tool_response>` }
    }
    return message
  })

const callText = ({ function: { name, arguments: args } }: ToolCall, syntax: ToolSyntax): string =>
  writtenCall(syntax, name, typeof args === "string" ? args : JSON.stringify(args))
