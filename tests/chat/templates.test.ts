/** Published templates, of llama.cpp's own collection: what each writes for a tool call, its reader reads. */
import { expect, test } from "bun:test"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { ChatTemplate, type OutputDelta, OutputReader, type Tool } from "@ggml-rpc/chat"
import { ensureSource } from "@ggml-rpc/native/source"

const folder = join(await ensureSource(), "models", "templates")
const names = readdirSync(folder)
  .filter((name) => name.endsWith(".jinja"))
  .sort()

/** Their calls are read as content: formats of their own, and templates that @huggingface/jinja 0.5.11 does not render. */
const others: ReadonlySet<string> = new Set(
  [
    ..."Apertus-8B-Instruct CohereForAI-c4ai-command-r-plus-tool_use Kimi-K3 LFM2.5-8B-A1B".split(
      " ",
    ),
    ..."MiniMax-M3 muse-glimmer".split(" "),
    "upstage-Solar-Open-100B",
    ..."ByteDance-Seed-OSS fireworks-ai-llama-3-firefunction-v2 tencent-Hy3 unsloth-Apriel-1.5".split(
      " ",
    ),
  ].map((name) => `${name}.jinja`),
)

const tool: Tool = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather of a city",
    parameters: {
      type: "object",
      properties: {
        city: { type: "string", description: "Its name" },
        days: { type: "integer", description: "How many" },
      },
      required: ["city"],
    },
  },
}
const user = { role: "user", content: "Weather?" }
const args = { city: "Paris", days: 2 }
const call = {
  role: "assistant",
  content: "",
  tool_calls: [
    {
      id: "abcdefghi",
      type: "function" as const,
      function: { name: "get_weather", arguments: JSON.stringify(args) },
    },
  ],
}

const templateOf = (name: string) =>
  new ChatTemplate({
    source: readFileSync(join(folder, name), "utf8"),
    bosText: "<s>",
    eosText: "</s>",
  })

const readBack = (template: ChatTemplate, text: string) => {
  const reader = new OutputReader(template, { prompt: "", tools: [tool] })
  const deltas: OutputDelta[] = []
  for (const character of text) deltas.push(...reader.push(character))
  deltas.push(...reader.finish())
  const of = (type: OutputDelta["type"]) =>
    deltas
      .map((delta) => (delta.type === type ? ("text" in delta ? delta.text : delta.name) : ""))
      .join("")
  return { name: of("toolCall"), args: of("toolArguments") }
}

test.each(names.filter((name) => !others.has(name)))("%s", (name) => {
  const template = templateOf(name)
  const options = { tools: [tool] }
  const prompt = template.render({ ...options, messages: [user] })
  const whole = template.render({ ...options, messages: [user, call], addGenerationPrompt: false })
  // Some open thoughts in the prompt that they leave out where the answer is known.
  const start = whole.startsWith(prompt)
    ? prompt.length
    : whole.lastIndexOf(user.content) + user.content.length
  const read = readBack(template, whole.slice(start))
  expect(read.name).toBe("get_weather")
  expect(JSON.parse(read.args)).toEqual(args)
})
