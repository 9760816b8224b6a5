/** Messages by Anthropic's own client. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import Anthropic, { AuthenticationError, BadRequestError } from "@anthropic-ai/sdk"
import { recitalText } from "ggml-rpc/demo-model"
import { ensureModel } from "../models/models.ts"
import { askJson, type StartedApi, startApi } from "./apiServer.ts"
import { answer, calling, chatTemplate, only, thinking, thoughts, weatherTool } from "./forced.ts"

setDefaultTimeout(60_000)

let api: StartedApi
let anthropic: Anthropic
beforeAll(async () => {
  api = await startApi(await ensureModel("demo"), { chatTemplate, apiKeys: ["secret"] })
  anthropic = new Anthropic({ baseURL: api.url, apiKey: "secret", maxRetries: 0 })
})
afterAll(() => api?.stop())

const hello = {
  model: "demo",
  max_tokens: 500,
  messages: [{ role: "user", content: "Hello" }],
} satisfies Anthropic.MessageCreateParamsNonStreaming

const forced = (text: string) => ({ ...hello, grammar: only(text) })

const { parameters, ...named } = weatherTool
const tools = [{ ...named, input_schema: parameters }] as unknown as Array<Anthropic.Tool>

const calls = [
  { type: "tool_use", name: "get_weather", input: { city: "Rome" } },
  { type: "tool_use", name: "get_weather", input: { city: "Paris" } },
]

test("an answer comes whole and in pieces, with its counts", async () => {
  const whole = await anthropic.messages.create(hello)
  expect(whole).toMatchObject({
    type: "message",
    role: "assistant",
    content: [{ type: "text", text: recitalText }],
    stop_reason: "end_turn",
    stop_sequence: null,
    usage: { output_tokens: 129 },
  })
  const streamed = await anthropic.messages.stream(hello).finalMessage()
  expect(streamed).toMatchObject({
    content: whole.content,
    stop_reason: "end_turn",
    usage: { output_tokens: 129 },
  })
})

test("it ends where it is told to", async () => {
  const short = await anthropic.messages.create({ ...hello, max_tokens: 3 })
  expect(short).toMatchObject({
    content: [{ text: "You are watching" }],
    stop_reason: "max_tokens",
  })
  const stopped = { ...hello, stop_sequences: [" one", "never"] }
  for (const message of [
    await anthropic.messages.create(stopped),
    await anthropic.messages.stream(stopped).finalMessage(),
  ]) {
    expect(message).toMatchObject({
      content: [{ text: "You are watching" }],
      stop_reason: "stop_sequence",
      stop_sequence: " one",
    })
  }
})

test("thoughts are a block of their own", async () => {
  const content = [
    { type: "thinking", thinking: thoughts, signature: "" },
    { type: "text", text: answer },
  ]
  const request = forced(thinking)
  expect((await anthropic.messages.create(request)).content).toMatchObject(content)
  const { content: streamed } = await anthropic.messages.stream(request).finalMessage()
  expect(streamed).toMatchObject(content)
})

describe("tools", () => {
  test("are called, whole and in pieces", async () => {
    const request = { ...forced(calling), tools }
    const message = {
      content: [{ type: "text", text: "Let me look." }, ...calls],
      stop_reason: "tool_use",
    }
    expect(await anthropic.messages.create(request)).toMatchObject(message)
    const streamed = await anthropic.messages.stream(request).finalMessage()
    expect(streamed.content.filter(({ type }) => type === "tool_use")).toMatchObject(calls)
    expect(streamed.stop_reason).toBe("tool_use")
  })

  test("stand in the prompt with their results, and what one must be called is held to", async () => {
    const request = {
      ...hello,
      system: [{ type: "text" as const, text: "Be brief." }],
      tools,
      messages: [
        ...hello.messages,
        {
          role: "assistant" as const,
          content: [
            { type: "tool_use" as const, id: "1", name: "get_weather", input: { city: "Rome" } },
          ],
        },
        {
          role: "user" as const,
          content: [
            {
              type: "tool_result" as const,
              tool_use_id: "1",
              content: [{ type: "text" as const, text: "rain" }],
            },
            { type: "text" as const, text: "And now?" },
          ],
        },
      ],
    }
    const { input_tokens } = await anthropic.messages.countTokens(request)
    const bare = await anthropic.messages.countTokens(hello)
    expect(input_tokens).toBeGreaterThan(bare.input_tokens)
    const answered = await anthropic.messages.create(request)
    const { usage } = answered
    expect(usage.input_tokens + (usage.cache_read_input_tokens ?? 0)).toBe(input_tokens)
  })
})

test("what is wrong is told in its own words", async () => {
  const refusal = (request: object, client = anthropic) =>
    client.messages
      .create({ ...hello, ...request } as Anthropic.MessageCreateParamsNonStreaming)
      .catch((error: unknown) => error)
  const long = await refusal({ messages: [{ role: "user", content: "Hello ".repeat(2000) }] })
  expect(long).toBeInstanceOf(BadRequestError)
  expect(long).toMatchObject({
    error: {
      type: "error",
      error: { type: "invalid_request_error", message: expect.stringContaining("room for") },
    },
  })
  expect(await refusal({ max_tokens: "many" })).toMatchObject({
    status: 400,
    message: expect.stringContaining("max_tokens"),
  })
  expect(
    await refusal({ messages: [{ role: "user", content: [{ type: "image", source: {} }] }] }),
  ).toMatchObject({ status: 400, message: expect.stringContaining("image") })
  const stranger = new Anthropic({ baseURL: api.url, apiKey: "guess", maxRetries: 0 })
  expect(await refusal({}, stranger)).toBeInstanceOf(AuthenticationError)
  const streamed = await askJson(
    `${api.url}/v1/messages`,
    { ...hello, stream: true, grammar: "none" },
    { "x-api-key": "secret" },
  )
  expect(streamed).toMatchObject({ status: 400, body: { type: "error" } })
})
