/** Answers that are known beforehand: a grammar leaves the model no choice, and its template is one of the tests'. */

/** Qwen's way, made short: thoughts in `<think>`, calls in `<tool_call>`. */
export const chatTemplate = `
{%- if tools %}
{{- '<|im_start|>system\\nYou may call these: ' }}
{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
{{- ' as <tool_call>\\n{"name": NAME, "arguments": OBJECT}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content %}{{- message.content }}{%- endif %}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}`

/** A grammar of one text. */
export const only = (text: string): string => `root ::= ${JSON.stringify(text)}`

export const weatherTool = {
  name: "get_weather",
  description: "How the weather is",
  parameters: {
    type: "object",
    properties: { city: { type: "string", enum: ["Rome", "Paris"] } },
    required: ["city"],
  },
} as const

export const thoughts = "It rains there."
export const answer = "It is wet in Rome: 12 °C ☔."
export const thinking = `<think>\n${thoughts}\n</think>\n\n${answer}`

const call = (city: string): string =>
  `<tool_call>\n{"name": "get_weather", "arguments": {"city": "${city}"}}\n</tool_call>`
/** Two calls after a text. */
export const calling = `Let me look.\n${call("Rome")}\n${call("Paris")}`
