import { describe, expect, test } from "bun:test"
import { ChatTemplate, type OutputDelta, OutputReader } from "../index.ts"
import { call, families, familyOf, paris, weather } from "./families.testHelper.ts"

interface Answer {
  reasoning: string
  content: string
  calls: { name: string; arguments: unknown; id: string }[]
}

const collected = (deltas: ReadonlyArray<OutputDelta>): Answer => {
  const answer: Answer = { reasoning: "", content: "", calls: [] }
  const args: string[] = []
  for (const delta of deltas) {
    if (delta.type === "reasoning") answer.reasoning += delta.text
    else if (delta.type === "content") answer.content += delta.text
    else if (delta.type === "toolArguments") args[delta.index] += delta.text
    else {
      expect(delta.index).toBe(answer.calls.length)
      answer.calls.push({ name: delta.name, arguments: undefined, id: delta.id })
      args.push("")
    }
  }
  args.forEach((text, index) => {
    answer.calls[index]!.arguments = JSON.parse(text)
  })
  return answer
}

interface Options {
  readonly prompt?: string
  readonly hasTools?: boolean
  readonly reasoningFormat?: "none" | "deepseek" | "auto"
}

/** Reads `text` in pieces of every size, which must not matter. */
const read = (source: string, text: string, options: Options = {}): Answer => {
  const { prompt = "", hasTools = true, reasoningFormat } = options
  const template = new ChatTemplate({ source })
  const answers = [1, 2, 3, 7, text.length].map((size) => {
    const reader = new OutputReader(template, {
      prompt,
      tools: hasTools ? [weather] : [],
      reasoningFormat,
    })
    const deltas: OutputDelta[] = []
    for (let at = 0; at < text.length; at += size) {
      deltas.push(...reader.push(text.slice(at, at + size)))
    }
    deltas.push(...reader.finish())
    return collected(deltas)
  })
  const withoutIds = answers.map(({ calls, ...rest }) => ({
    ...rest,
    calls: calls.map(({ name, arguments: args }) => ({ name, arguments: args })),
  }))
  for (const answer of withoutIds) expect(answer).toEqual(withoutIds[0]!)
  return answers[0]!
}

describe("tool calls of the family", () => {
  test.each(families)("%s", (_, marks, text) => {
    const { content, reasoning, calls } = read(familyOf(...marks), text)
    expect({ content, reasoning }).toEqual({ content: "", reasoning: "" })
    expect(calls).toEqual([{ ...paris, id: expect.any(String) }])
  })

  test("Mistral Small and Kimi give calls their ids, the others get nine letters and digits", () => {
    const idOf = (marks: ReadonlyArray<string>): string =>
      read(familyOf(...marks), families.find(([, of]) => of === marks)![2]).calls[0]!.id
    const marksOf = (name: string) => families.find(([of]) => of === name)![1]
    expect(idOf(marksOf("Mistral Small 3.2"))).toBe("123456789")
    expect(idOf(marksOf("Kimi K2"))).toBe("functions.get_weather:0")
    expect(idOf(marksOf("Hermes, Qwen"))).toMatch(/^[A-Za-z0-9]{9}$/)
  })
})

describe("answers", () => {
  const hermes = familyOf("<tool_call>", "<think>", "</think>")

  test("thoughts, content and several calls", () => {
    const text = `<think>\nHm.\n</think>\n\nI look it up.\n\n<tool_call>\n${call}\n</tool_call>\n<tool_call>\n{"name": "get_time"}\n</tool_call>`
    const answer = read(hermes, text)
    expect(answer).toMatchObject({ reasoning: "Hm.", content: "I look it up." })
    expect(answer.calls).toMatchObject([paris, { name: "get_time", arguments: {} }])
    expect(new Set(answer.calls.map(({ id }) => id)).size).toBe(2)
  })

  test("a prompt that opens the thoughts", () => {
    const prompt = "<|assistant|>\n<think>\n"
    const text = "Let me see.\n</think>\n\n42"
    expect(read(hermes, text, { prompt })).toMatchObject({
      reasoning: "Let me see.",
      content: "42",
    })
    expect(read(hermes, text, { prompt: "<think>\n\n</think>\n\n" })).toMatchObject({
      reasoning: "",
      content: text,
    })
  })

  test("thoughts that do not end are thoughts; with none they stay in the content", () => {
    expect(read(hermes, "<think>On and on")).toMatchObject({ reasoning: "On and on", content: "" })
    const text = "<think>\nHm.\n</think>\n\n42 "
    expect(read(hermes, text, { reasoningFormat: "none" })).toMatchObject({ content: text })
  })

  test("what only looks like a mark is content, to the last character", () => {
    const text = " a <tool_call < b </think> <tool_cal"
    expect(read(hermes, text)).toEqual({ reasoning: "", content: text, calls: [] })
  })

  test("without tools nothing is a call", () => {
    const text = `<tool_call>${call}</tool_call>`
    expect(read(hermes, text, { hasTools: false })).toMatchObject({ content: text, calls: [] })
  })

  test("an object of Llama that is no call is its answer", () => {
    const llama = familyOf("<|start_header_id|>", '"parameters"')
    const text = '{"answer": [1, {"name": "x"}], "more": "}"} and more'
    expect(read(llama, text)).toMatchObject({ content: text, calls: [] })
  })

  test("OpenAI's channels", () => {
    const text =
      "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>final<|message|>Hi!<|return|>"
    const gptOss = familyOf("<|channel|>")
    expect(read(gptOss, text)).toMatchObject({ reasoning: "Think.", content: "Hi!" })
    expect(read(gptOss, text, { reasoningFormat: "none" }).content).toContain("<|message|>Think.")
  })

  test("Command R's answer has marks of its own", () => {
    const text = "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Hello.<|END_RESPONSE|>"
    const source = familyOf("<|START_ACTION|>", "<|START_THINKING|>", "<|START_RESPONSE|>")
    expect(read(source, text)).toMatchObject({ reasoning: "Hm.", content: "Hello." })
  })

  test("Gemma's objects and lists, with texts that look like them", () => {
    const gemma = familyOf("<|tool_call>call:", "<|channel>thought", "<channel|>")
    const text =
      '<|channel>thought\nHm.\n<channel|>Wait.<|tool_call>call:f{a:[1, {b:<|"|>x,]}"\ny<|"|>}],c:true,d:{}}<tool_call|>'
    const { reasoning, content, calls } = read(gemma, text)
    expect({ reasoning, content }).toEqual({ reasoning: "Hm.", content: "Wait." })
    const args = { a: [1, { b: 'x,]}"\ny' }], c: true, d: {} }
    expect(calls).toMatchObject([{ name: "f", arguments: args }])
  })

  test("texts in tags keep quotes, line feeds and braces", () => {
    const coder = familyOf("<tool_call>", "<function=", "<parameter=")
    const city = 'St. "John\'s"\n\n{x} </param>\\'
    const text = `<tool_call>\n<function=get_weather>\n<parameter=city>\n${city}\n</parameter>\n</function>\n</tool_call>`
    expect(read(coder, text).calls).toMatchObject([{ name: "get_weather", arguments: { city } }])
  })

  test("arguments come as they are written", () => {
    const reader = new OutputReader(new ChatTemplate({ source: hermes }), {
      prompt: "",
      tools: [weather],
    })
    reader.push('<tool_call>\n{"name": "get_weather", "arguments": ')
    const deltas = reader.push('{"city": "Par')
    expect(deltas).toMatchObject([{ type: "toolCall" }, { text: '{"city": "Par' }])
  })
})
