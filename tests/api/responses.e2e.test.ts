/** The Responses API by OpenAI's own client. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { recitalText } from "ggml-rpc/demo-model"
import OpenAI from "openai"
import { ensureModel } from "../models/models.ts"
import { askJson, type StartedApi, startApi } from "./apiServer.ts"
import { answer, calling, chatTemplate, only, thinking, thoughts, weatherTool } from "./forced.ts"

setDefaultTimeout(60_000)

let api: StartedApi
let openai: OpenAI
beforeAll(async () => {
  api = await startApi(await ensureModel("demo"), { chatTemplate })
  openai = new OpenAI({ baseURL: `${api.url}/v1`, apiKey: "none", maxRetries: 0 })
})
afterAll(() => api?.stop())

const hello = { model: "demo", input: "Hello", temperature: 0 } as const

const forced = (text: string) => ({ ...hello, grammar: only(text) })

test("a response comes whole, and in events that the client puts together", async () => {
  const whole = await openai.responses.create(hello)
  expect(whole).toMatchObject({
    object: "response",
    status: "completed",
    output_text: recitalText,
    usage: { output_tokens: 129 },
  })
  const stream = openai.responses.stream(hello)
  const types: Array<string> = []
  stream.on("event", ({ type }) => types.push(type))
  const streamed = await stream.finalResponse()
  expect(streamed.output_text).toBe(recitalText)
  expect(types.slice(0, 5)).toEqual([
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
  ])
  expect(types.slice(-4)).toEqual([
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
  ])
})

test("thoughts and calls are items of their own", async () => {
  const thought = await openai.responses.stream(forced(thinking)).finalResponse()
  expect(thought.output).toMatchObject([
    { type: "reasoning", content: [{ type: "reasoning_text", text: thoughts }] },
    { type: "message", content: [{ type: "output_text", text: answer }] },
  ])
  const request = {
    ...forced(calling),
    tools: [{ type: "function", strict: false, ...weatherTool }],
  } as unknown as OpenAI.Responses.ResponseCreateParamsNonStreaming
  for (const { output } of [
    await openai.responses.create(request),
    await openai.responses.stream(request as never).finalResponse(),
  ]) {
    expect(output.map(({ type }) => type)).toEqual(["message", "function_call", "function_call"])
    const calls = output.slice(1) as Array<OpenAI.Responses.ResponseFunctionToolCall>
    expect(calls.map((call) => JSON.parse(call.arguments))).toEqual([
      { city: "Rome" },
      { city: "Paris" },
    ])
  }
})

test("a conversation of items becomes the prompt that it is", async () => {
  const { usage } = await openai.responses.create({
    ...hello,
    instructions: "Be brief.",
    max_output_tokens: 2,
    input: [
      { role: "user", content: [{ type: "input_text", text: "Weather?" }] },
      { type: "function_call", call_id: "1", name: "get_weather", arguments: '{"city":"Rome"}' },
      { type: "function_call_output", call_id: "1", output: "rain" },
    ],
  })
  const { body } = await askJson(`${api.url}/apply-template`, {
    messages: [
      { role: "system", content: "Be brief." },
      { role: "user", content: "Weather?" },
      {
        role: "assistant",
        tool_calls: [{ id: "1", function: { name: "get_weather", arguments: '{"city":"Rome"}' } }],
      },
      { role: "tool", content: "rain", tool_call_id: "1" },
    ],
  })
  const { tokens } = (
    await askJson(`${api.url}/tokenize`, { content: body.prompt, add_special: true })
  ).body
  expect(usage?.input_tokens).toBe(tokens.length)
})

test("what ends early says so, a format is kept, and what cannot be is told", async () => {
  const short = await openai.responses.create({ ...hello, max_output_tokens: 3 })
  expect(short).toMatchObject({
    status: "incomplete",
    incomplete_details: { reason: "max_output_tokens" },
    output_text: "You are watching",
  })
  const schema = { type: "object", properties: { a: { const: 1 } }, required: ["a"] }
  const { output_text } = await openai.responses.create({
    ...hello,
    text: { format: { type: "json_schema", name: "x", schema } },
    max_output_tokens: 200,
  })
  expect(output_text).toMatch(/^\{\s*"a"\s*:\s*1/)
  const refused = (more: object) =>
    openai.responses.create({ ...hello, ...more }).catch((error: unknown) => error)
  expect(await refused({ previous_response_id: "x" })).toMatchObject({ status: 501 })
  expect(await refused({ tools: [{ type: "web_search" }] })).toMatchObject({ status: 501 })
  expect(await refused({ input: 5 })).toMatchObject({ status: 400, param: "input" })
})
