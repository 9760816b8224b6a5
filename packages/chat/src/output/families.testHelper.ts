/** A call of one tool as each family of models writes it, and templates that are known as theirs. */
import type { Tool } from "../messages.ts"

export const weather: Tool = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather of a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string" }, days: { type: "integer" } },
    },
  },
}

/** A template that describes tools and names these marks, as its family's does. */
export const familyOf = (...marks: ReadonlyArray<string>): string =>
  `{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}{{ tools | tojson }}{# ${marks.join(" ")} #}`

export const paris = { name: "get_weather", arguments: { city: "Paris", days: 2 } }
export const args = '{"city": "Paris", "days": 2}'
export const call = `{"name": "get_weather", "arguments": ${args}}`

export const families: ReadonlyArray<
  readonly [name: string, marks: ReadonlyArray<string>, text: string]
> = [
  ["Hermes, Qwen", ["<tool_call>"], `<tool_call>\n${call}\n</tool_call>`],
  [
    "Llama 3",
    ["<|start_header_id|>", '"parameters"'],
    `{"name": "get_weather", "parameters": ${args}}`,
  ],
  [
    "Llama 3 with its tag",
    ["<|start_header_id|>", '"parameters"'],
    `<|python_tag|>{"type": "function", "name": "get_weather", "parameters": ${args}}`,
  ],
  [
    "Mistral",
    ["[TOOL_CALLS]"],
    `[TOOL_CALLS][{"name": "get_weather", "arguments": ${args}, "id": "123456789"}]`,
  ],
  [
    "Mistral Small 3.2",
    ["[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"],
    `[TOOL_CALLS]get_weather[CALL_ID]123456789[ARGS]${args}`,
  ],
  ["Devstral, Ministral", ["[TOOL_CALLS]", "[ARGS]"], `[TOOL_CALLS]get_weather[ARGS]${args}`],
  [
    "DeepSeek R1",
    ["<｜tool▁calls▁begin｜>", "```json"],
    `<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n\`\`\`json\n${args}\n\`\`\`<｜tool▁call▁end｜><｜tool▁calls▁end｜>`,
  ],
  [
    "DeepSeek V3.1",
    ["<｜tool▁calls▁begin｜>"],
    `<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>${args}<｜tool▁call▁end｜><｜tool▁calls▁end｜>`,
  ],
  [
    "DeepSeek V3.2",
    ["dsml_token", "DSML", "function_calls"],
    '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n<｜DSML｜parameter name="days" string="false">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
  ],
  [
    "Qwen3-Coder",
    ["<tool_call>", "<function=", "<parameter="],
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
  ],
  [
    "GLM 4.6",
    ["<tool_call>", "<arg_key>"],
    "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
  ],
  [
    "GLM 4.7",
    ["<tool_call>", "<arg_key>"],
    "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Paris</arg_value><arg_key>days</arg_key><arg_value>2</arg_value></tool_call>",
  ],
  [
    "MiniMax M2",
    ["<minimax:tool_call>"],
    '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n<parameter name="days">2</parameter>\n</invoke>\n</minimax:tool_call>',
  ],
  [
    "Kimi K2",
    ["<|tool_calls_section_begin|>", "<|tool_call_begin|>"],
    `<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>${args}<|tool_call_end|><|tool_calls_section_end|>`,
  ],
  ["Granite 3", ["<|tool_call|>"], `<|tool_call|>[${call}]`],
  ["Nemotron Nano 2", ["<TOOLCALL>"], `<TOOLCALL>[${call}]</TOOLCALL>`],
  [
    "Command R7B",
    ["<|START_ACTION|>"],
    `<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": ${args}}\n]<|END_ACTION|>`,
  ],
  ["Functionary 3.1", ["<function=", "</function>"], `<function=get_weather>${args}</function>`],
  ["Functionary 3.2", [">>>all"], `get_weather\n${args}`],
  [
    "Gemma 4",
    ["<|tool_call>call:"],
    '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:2}<tool_call|>',
  ],
  [
    "gpt-oss",
    ["<|channel|>"],
    `<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>${args}<|call|>`,
  ],
]
