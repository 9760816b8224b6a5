/**
 * Two published templates refuse messages that llama-server's clients send: gpt-oss's raises an exception where an
 * earlier answer still has its channels in it, Mistral's where an assistant's message is empty. llama.cpp v0.5
 * (common/chat.cpp) takes these checks out, and so is it here.
 */
const checks = [
  /\{%-? if "<\|channel\|>analysis<\|message\|>" in message\.content or "<\|channel\|>final<\|message\|>" in message\.content -?%\}/g,
  /\{%-? if \(message\['content'\] is none or message\['content'\] == '' or message\['content'\]\|length == 0\) and \(message\['tool_calls'\] is not defined or message\['tool_calls'\] is none or message\['tool_calls'\]\|length == 0\) -?%\}/g,
]

export const mendedSource = (source: string): string =>
  checks.reduce((text, check) => text.replace(check, "{%- if false %}"), source)
