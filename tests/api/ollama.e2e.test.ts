/** Ollama's own client. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { recitalText } from "ggml-rpc/demo-model"
import { type Message, Ollama } from "ollama"
import { ensureModel } from "../models/models.ts"
import { ask, askJson, type StartedApi, startApi } from "./apiServer.ts"
import { answer, calling, chatTemplate, only, thinking, thoughts, weatherTool } from "./forced.ts"

setDefaultTimeout(60_000)

let api: StartedApi
let ollama: Ollama
beforeAll(async () => {
  api = await startApi(await ensureModel("demo"), { chatTemplate })
  ollama = new Ollama({ host: api.url })
})
afterAll(() => api?.stop())

const hello = {
  model: "demo",
  messages: [{ role: "user", content: "Hello" }],
  options: { temperature: 0 },
}

const forced = (text: string) => ({ ...hello, options: { grammar: only(text) } as object })

const tools = [{ type: "function", function: weatherTool }] as never

/** What the pieces of a stream come to. */
const collected = async (
  stream: AsyncIterable<{ message: Message; done: boolean; done_reason: string }>,
) => {
  const pieces = await Array.fromAsync(stream)
  const text = (of: (message: Message) => string | undefined): string =>
    pieces.map(({ message }) => of(message) ?? "").join("")
  return {
    pieces,
    content: text(({ content }) => content),
    thinking: text((message) => message.thinking),
    calls: pieces.flatMap(({ message }) => message.tool_calls ?? []),
    end: pieces.at(-1),
  }
}

describe("a chat", () => {
  test("is answered whole and in lines, with counts", async () => {
    const whole = await ollama.chat(hello)
    expect(whole).toMatchObject({
      model: "demo",
      message: { role: "assistant", content: recitalText },
      done: true,
      done_reason: "stop",
      eval_count: 129,
    })
    expect(whole.eval_duration).toBeGreaterThan(1e6)
    const { pieces, content, end } = await collected(await ollama.chat({ ...hello, stream: true }))
    expect(content).toBe(recitalText)
    expect(pieces.length).toBeGreaterThan(100)
    expect(end).toMatchObject({ done: true, done_reason: "stop", eval_count: 129 })
    // Streamed is what Ollama does unless it is told otherwise, which its client does.
    const { messages, options } = hello
    const { headers, body } = await ask(`${api.url}/api/chat`, { messages, options })
    expect(headers.get("content-type")).toBe("application/x-ndjson")
    expect(body.trim().split("\n").length).toBe(pieces.length)
  })

  test("ends where it is told to, and keeps a format", async () => {
    const short = await ollama.chat({ ...hello, options: { temperature: 0, num_predict: 3 } })
    expect(short).toMatchObject({ message: { content: "You are watching" }, done_reason: "length" })
    const stopped = await ollama.chat({ ...hello, options: { temperature: 0, stop: [" one"] } })
    expect(stopped).toMatchObject({ message: { content: "You are watching" }, done_reason: "stop" })
    const format = { type: "object", properties: { a: { const: 1 } }, required: ["a"] }
    const { message } = await ollama.chat({ ...hello, format, options: { num_predict: 200 } })
    expect(message.content).toMatch(/^\{\s*"a"\s*:\s*1/)
    const { message: object } = await ollama.chat({
      ...hello,
      format: "json",
      options: { num_predict: 9 },
    })
    expect(object.content).toStartWith("{")
  })

  test("has thoughts and calls of their own", async () => {
    const thought = await ollama.chat(forced(thinking))
    expect(thought.message).toMatchObject({ content: answer, thinking: thoughts })
    const streamed = await collected(await ollama.chat({ ...forced(thinking), stream: true }))
    expect(streamed).toMatchObject({ content: answer, thinking: thoughts })
    const calls = ["Rome", "Paris"].map((city) => ({
      function: { name: "get_weather", arguments: { city } },
    }))
    const called = await ollama.chat({ ...forced(calling), tools })
    expect(called.message.tool_calls).toEqual(calls)
    const { calls: streamedCalls } = await collected(
      await ollama.chat({ ...forced(calling), tools, stream: true }),
    )
    expect(streamedCalls).toEqual(calls)
    const asked = await ollama.chat({
      ...hello,
      think: false,
      tools,
      messages: [
        ...hello.messages,
        { role: "assistant", content: "", tool_calls: [...calls] },
        { role: "tool", tool_name: "get_weather", content: "rain" },
      ],
    })
    expect(asked.message.content).toBe(recitalText)
  })
})

describe("a prompt", () => {
  test("is answered in a chat of its own, or goes on as it is", async () => {
    const request = { model: "demo", prompt: "Hello", options: { temperature: 0 } }
    const chat = await ollama.generate({ ...request, system: "Be brief." })
    expect(chat).toMatchObject({ response: recitalText, done: true, done_reason: "stop" })
    const raw = await ollama.generate({ ...request, raw: true })
    expect(raw.response).toBe(recitalText)
    expect(raw.prompt_eval_count).toBeLessThan(chat.prompt_eval_count)
    for (const isRaw of [false, true]) {
      const pieces = await Array.fromAsync(
        await ollama.generate({ ...request, raw: isRaw, stream: true }),
      )
      expect(pieces.map(({ response }) => response).join("")).toBe(recitalText)
    }
    expect(await ollama.generate({ model: "demo", prompt: "" })).toMatchObject({
      done_reason: "load",
    })
  })
})

test("the model is listed and shown", async () => {
  const { models } = await ollama.list()
  expect(models).toMatchObject([
    { name: "demo", details: { format: "gguf", family: "llama", parameter_size: "1.38M" } },
  ])
  expect((await ollama.ps()).models).toMatchObject([{ name: "demo" }])
  const shown = await ollama.show({ model: "demo" })
  expect(shown.capabilities).toEqual(["completion", "tools", "thinking"])
  expect(shown.template).toBe(chatTemplate)
  expect(shown.model_info).toMatchObject({ "general.architecture": "llama" })
  expect((await askJson(`${api.url}/api/version`)).body.version).toMatch(/^\d+\.\d+\.\d+$/)
})

test("what is wrong is told in its own words", async () => {
  const refusal = (request: object) =>
    ollama.chat({ ...hello, ...request }).then(
      () => "nothing",
      (error: unknown) => error,
    )
  expect(await refusal({ options: { temperature: "hot" } })).toMatchObject({
    status_code: 400,
    error: 'options.temperature: Expected number, actual "hot"',
  })
  expect(
    await refusal({ messages: [{ role: "user", content: "", images: ["aGk="] }] }),
  ).toMatchObject({
    status_code: 400,
    error: expect.stringContaining("image"),
  })
  expect(
    await refusal({ messages: [{ role: "user", content: "Hello ".repeat(2000) }] }),
  ).toMatchObject({ status_code: 400, error: expect.stringContaining("room for") })
  expect(await refusal({ format: { $ref: "#/none" } })).toMatchObject({ status_code: 400 })
  const embedding = await ollama
    .embed({ model: "demo", input: "x" })
    .catch((error: unknown) => error)
  expect(embedding).toMatchObject({ status_code: 501 })
})
