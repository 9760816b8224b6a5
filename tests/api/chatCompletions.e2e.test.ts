/** Chats by OpenAI's own client. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { recitalText } from "ggml-rpc/demo-model"
import OpenAI from "openai"
import { ensureModel } from "../models/models.ts"
import { askJson, type StartedApi, startApi } from "./apiServer.ts"
import { answer, calling, chatTemplate, only, thinking, thoughts, weatherTool } from "./forced.ts"

setDefaultTimeout(60_000)

let api: StartedApi
let openai: OpenAI
beforeAll(async () => {
  api = await startApi(await ensureModel("demo"), {
    chatTemplate,
    plan: { slots: 4, contextSize: 4096 },
  })
  openai = new OpenAI({ baseURL: `${api.url}/v1`, apiKey: "none", maxRetries: 0 })
})
afterAll(() => api?.stop())

const hello = {
  model: "demo",
  messages: [{ role: "user", content: "Hello" }],
  temperature: 0,
} as const satisfies OpenAI.ChatCompletionCreateParams

const tools = [{ type: "function", function: weatherTool }] as const

/** llama-server's field, which the client passes on. */
const forced = (text: string) => ({ ...hello, grammar: only(text) })

/** What a stream's chunks come to. */
const collected = async (stream: AsyncIterable<OpenAI.ChatCompletionChunk>) => {
  const chunks = await Array.fromAsync(stream)
  const message = {
    content: "",
    reasoning: "",
    calls: [] as Array<{ id: string; name: string; arguments: string }>,
  }
  for (const { choices } of chunks) {
    const delta = (choices[0]?.delta ?? {}) as OpenAI.ChatCompletionChunk.Choice.Delta & {
      reasoning_content?: string
    }
    message.content += delta.content ?? ""
    message.reasoning += delta.reasoning_content ?? ""
    for (const { index, id, function: called } of delta.tool_calls ?? []) {
      message.calls[index] ??= { id: id ?? "", name: called?.name ?? "", arguments: "" }
      const known = message.calls[index]
      known.arguments += called?.arguments ?? ""
    }
  }
  const reasons = chunks.flatMap(({ choices }) => choices.map((choice) => choice.finish_reason))
  return { chunks, message, reason: reasons.findLast((reason) => reason !== null) }
}

describe("an answer", () => {
  test("comes whole, with its counts", async () => {
    const { choices, usage, object } = await openai.chat.completions.create(hello)
    expect(object).toBe("chat.completion")
    expect(choices).toMatchObject([
      { index: 0, message: { role: "assistant", content: recitalText }, finish_reason: "stop" },
    ])
    expect(usage?.completion_tokens).toBe(129)
  })

  test("comes in pieces, its role first and its counts last", async () => {
    const { chunks, message, reason } = await collected(
      await openai.chat.completions.create({
        ...hello,
        stream: true,
        stream_options: { include_usage: true },
      }),
    )
    expect(chunks[0]?.choices[0]?.delta).toEqual({ role: "assistant", content: null })
    expect(message.content).toBe(recitalText)
    expect(reason).toBe("stop")
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 129 } })
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1)
  })

  test("comes several times, ends where it is told to, and has probabilities", async () => {
    const { choices } = await openai.chat.completions.create({
      ...hello,
      n: 3,
      max_completion_tokens: 4,
      logprobs: true,
      top_logprobs: 2,
    })
    expect(choices.map(({ index }) => index)).toEqual([0, 1, 2])
    for (const { message, finish_reason, logprobs } of choices) {
      expect({ content: message.content, finish_reason }).toEqual({
        content: "You are watching one",
        finish_reason: "length",
      })
      expect(logprobs?.content?.map(({ token }) => token)).toEqual([
        "You",
        " are",
        " watching",
        " one",
      ])
      expect(logprobs?.content?.[0]?.top_logprobs.length).toBe(2)
      expect(logprobs?.content?.[0]?.logprob).toBeCloseTo(0, 1)
    }
    const stopped = await openai.chat.completions.create({ ...hello, stop: [" one", "never"] })
    expect(stopped.choices[0]).toMatchObject({
      message: { content: "You are watching" },
      finish_reason: "stop",
    })
    const { chunks } = await collected(
      await openai.chat.completions.create({
        ...hello,
        max_tokens: 3,
        stream: true,
        logprobs: true,
      }),
    )
    const streamed = chunks.flatMap(({ choices }) => choices[0]?.logprobs?.content ?? [])
    expect(streamed.map(({ token }) => token)).toEqual(["You", " are", " watching"])
  })

  test("has the same text for the same seed, and another for another", async () => {
    const sampled = async (seed: number, n = 1) => {
      const request = {
        ...hello,
        temperature: 5,
        top_p: 1,
        seed,
        n,
        max_tokens: 8,
        top_k: 0,
        min_p: 0,
      }
      const { choices } = await openai.chat.completions.create(request)
      return choices.map(({ message }) => message.content)
    }
    const [first, second] = await sampled(7, 2)
    expect(await sampled(7)).toEqual([first!])
    expect(await sampled(8)).toEqual([second!])
    expect(first).not.toBe(second)
  })

  test("goes on with an assistant's message", async () => {
    const { body } = await askJson(`${api.url}/apply-template`, {
      messages: [...hello.messages, { role: "assistant", content: "You are" }],
    })
    expect(body.prompt).toEndWith("<|im_start|>assistant\nYou are")
  })
})

describe("thoughts", () => {
  test("are split off, whole and in pieces, unless they are wanted as they are", async () => {
    const { choices } = await openai.chat.completions.create(forced(thinking))
    expect(choices[0]?.message).toMatchObject({ content: answer, reasoning_content: thoughts })
    const { message } = await collected(
      await openai.chat.completions.create({ ...forced(thinking), stream: true }),
    )
    expect(message).toMatchObject({ content: answer, reasoning: thoughts })
    const raw = await openai.chat.completions.create({
      ...forced(thinking),
      reasoning_format: "none",
    } as OpenAI.ChatCompletionCreateParamsNonStreaming)
    expect(raw.choices[0]?.message.content).toBe(thinking)
  })

  test("are not asked for where the effort is none", async () => {
    const prompt = async (more: object) =>
      (await askJson(`${api.url}/apply-template`, { messages: hello.messages, ...more })).body
        .prompt
    expect(await prompt({})).toEndWith("<|im_start|>assistant\n")
    expect(await prompt({ reasoning_effort: "none" })).toEndWith("</think>\n\n")
    expect(await prompt({ chat_template_kwargs: { enable_thinking: false } })).toEndWith(
      "</think>\n\n",
    )
  })
})

describe("tools", () => {
  test("are called, whole and in pieces", async () => {
    const request = { ...forced(calling), tools: [...tools] }
    const { choices } = await openai.chat.completions.create(request)
    expect(choices[0]).toMatchObject({
      finish_reason: "tool_calls",
      message: { content: "Let me look." },
    })
    const calls = choices[0]?.message
      .tool_calls as Array<OpenAI.ChatCompletionMessageFunctionToolCall>
    expect(
      calls.map(({ function: { name, arguments: args } }) => [name, JSON.parse(args)]),
    ).toEqual([
      ["get_weather", { city: "Rome" }],
      ["get_weather", { city: "Paris" }],
    ])
    const { message, reason } = await collected(
      await openai.chat.completions.create({ ...request, stream: true }),
    )
    expect(reason).toBe("tool_calls")
    expect(message.content.trim()).toBe("Let me look.")
    expect(message.calls.map(({ name, arguments: args }) => [name, JSON.parse(args)])).toEqual([
      ["get_weather", { city: "Rome" }],
      ["get_weather", { city: "Paris" }],
    ])
    expect(new Set(message.calls.map(({ id }) => id)).size).toBe(2)
  })

  test("are called by a model that must, and not by one that must not", async () => {
    // A model that may think first could think for ever.
    const plain = await startApi(await ensureModel("demo"), {
      chatTemplate: chatTemplate.replaceAll(/<.?think>/g, ""),
    })
    const client = new OpenAI({ baseURL: `${plain.url}/v1`, apiKey: "none", maxRetries: 0 })
    const chosen = async (tool_choice: OpenAI.ChatCompletionToolChoiceOption) =>
      (
        await client.chat.completions.create({
          ...hello,
          tools: [...tools],
          tool_choice,
          parallel_tool_calls: false,
          max_tokens: 500,
        })
      ).choices[0]!
    for (const choice of [
      "required",
      { type: "function", function: { name: "get_weather" } },
    ] as const) {
      const { message, finish_reason } = await chosen(choice)
      expect(finish_reason).toBe("tool_calls")
      const call = message.tool_calls?.[0] as OpenAI.ChatCompletionMessageFunctionToolCall
      expect(call.function.name).toBe("get_weather")
      expect(["Rome", "Paris"]).toContain(JSON.parse(call.function.arguments).city)
    }
    expect((await chosen("none")).message).toMatchObject({ content: recitalText })
    await plain.stop()
  })

  test("stand in the prompt, with what they answered", async () => {
    const { body } = await askJson(`${api.url}/apply-template`, {
      messages: [
        ...hello.messages,
        {
          role: "assistant",
          content: null,
          tool_calls: [
            {
              id: "1",
              type: "function",
              function: { name: "get_weather", arguments: '{"city":"Rome"}' },
            },
          ],
        },
        { role: "tool", tool_call_id: "1", content: "rain" },
      ],
      tools,
    })
    expect(body.prompt).toContain('"name": "get_weather"')
    expect(body.prompt).toContain('"arguments": {"city": "Rome"}')
    expect(body.prompt).toContain("<|im_start|>tool\nrain<|im_end|>")
  })

  test("that cannot be called are told", async () => {
    const refused = (more: object) =>
      openai.chat.completions
        .create({ ...hello, ...more } as OpenAI.ChatCompletionCreateParamsNonStreaming)
        .catch((error: unknown) => error)
    expect(
      await refused({ tools, tool_choice: { type: "function", function: { name: "x" } } }),
    ).toMatchObject({
      status: 400,
      param: "tool_choice",
    })
    expect(await refused({ tool_choice: "required" })).toMatchObject({ status: 400 })
  })
})

describe("a format", () => {
  test("of JSON, or of a schema, is kept", async () => {
    const object = await openai.chat.completions.create({
      ...hello,
      response_format: { type: "json_object" },
      max_tokens: 300,
    })
    expect(object.choices[0]?.message.content).toStartWith("{")
    const schema = {
      type: "object",
      properties: {
        city: { enum: ["Rome"] },
        degrees: { type: "integer", minimum: 1, maximum: 9 },
      },
      required: ["city", "degrees"],
      additionalProperties: false,
    }
    const { choices } = await openai.chat.completions.create({
      ...hello,
      response_format: { type: "json_schema", json_schema: { name: "weather", schema } },
    })
    const { city, degrees, ...rest } = JSON.parse(choices[0]!.message.content!)
    expect({ city, rest }).toEqual({ city: "Rome", rest: {} })
    expect(degrees).toBeWithin(1, 10)
  })

  test("that is broken is told", async () => {
    const schema = { type: "object", properties: { city: { $ref: "#/none" } } }
    const error = await openai.chat.completions
      .create({
        ...hello,
        response_format: { type: "json_schema", json_schema: { name: "x", schema } },
      })
      .catch((error: unknown) => error)
    expect(error).toMatchObject({
      status: 400,
      message: expect.stringContaining("JSON schema cannot be followed"),
    })
  })
})

test.each([
  ["no messages", { messages: [] }, "messages"],
  [
    "a picture",
    { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] },
    "messages",
  ],
  ["a role that is a number", { messages: [{ role: 1, content: "x" }] }, "messages.0.role"],
  ["tools that are none", { tools: "all" }, "tools"],
  ["a stop that is none", { stop: 5 }, "stop"],
])("%s: the field is named", async (_, change, param) => {
  for (const stream of [false, true]) {
    const { status, body } = await askJson(`${api.url}/v1/chat/completions`, {
      ...hello,
      ...change,
      stream,
    })
    expect({ status, param: body.error.param }).toEqual({ status: 400, param })
  }
})
