/** Texts that go on, by OpenAI's own client and by llama-server's fields. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { recitalText } from "ggml-rpc/demo-model"
import OpenAI, { BadRequestError, NotFoundError } from "openai"
import { ensureModel } from "../models/models.ts"
import { ask, askJson, eventData, type StartedApi, startApi } from "./apiServer.ts"

setDefaultTimeout(60_000)

let api: StartedApi
let openai: OpenAI
beforeAll(async () => {
  api = await startApi(await ensureModel("demo"), { name: "demo" })
  openai = new OpenAI({ baseURL: `${api.url}/v1`, apiKey: "none", maxRetries: 0 })
})
afterAll(() => api?.stop())

const greedy = { model: "demo", prompt: "Hello", temperature: 0 } as const

describe("OpenAI's client", () => {
  test("finds the model", async () => {
    const { data } = await openai.models.list()
    expect(data).toMatchObject([{ id: "demo", object: "model", owned_by: "ggml-rpc" }])
    expect(await openai.models.retrieve("demo")).toMatchObject({ id: "demo" })
    const unknown = await openai.models.retrieve("gpt-4").catch((error: unknown) => error)
    expect(unknown).toBeInstanceOf(NotFoundError)
  })

  test("gets a whole text, and its counts", async () => {
    const { choices, usage, object } = await openai.completions.create({
      ...greedy,
      max_tokens: 500,
    })
    expect(object).toBe("text_completion")
    expect(choices).toEqual([
      { index: 0, text: recitalText, logprobs: null, finish_reason: "stop" },
    ])
    expect(usage).toMatchObject({ prompt_tokens: 7, completion_tokens: 129, total_tokens: 136 })
  })

  test("gets the same in pieces, and the counts where it asks for them", async () => {
    const stream = await openai.completions.create({
      ...greedy,
      max_tokens: 500,
      stream: true,
      stream_options: { include_usage: true },
    })
    const pieces = await Array.fromAsync(stream)
    expect(pieces.map(({ choices }) => choices[0]?.text ?? "").join("")).toBe(recitalText)
    expect(pieces.length).toBeGreaterThan(100)
    expect(pieces.at(-2)?.choices[0]?.finish_reason).toBe("stop")
    expect(pieces.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 129 } })
  })

  test("gets several texts for several prompts, each in its place", async () => {
    const request = { ...greedy, prompt: ["One", "Two"], n: 2, max_tokens: 4 }
    const { choices, usage } = await openai.completions.create(request)
    expect(choices.map(({ index, text }) => [index, text])).toEqual(
      [0, 1, 2, 3].map((index) => [index, "You are watching one"]),
    )
    expect(usage).toMatchObject({ completion_tokens: 16 })
    const pieces = await Array.fromAsync(
      await openai.completions.create({ ...request, stream: true }),
    )
    const texts = pieces.reduce<Array<string>>((all, { choices: [choice] }) => {
      all[choice!.index] = (all[choice!.index] ?? "") + choice!.text
      return all
    }, [])
    expect(texts).toEqual(Array(4).fill("You are watching one"))
  })

  test("stops at a text, echoes the prompt, and takes tokens for it", async () => {
    const stopped = await openai.completions.create({ ...greedy, stop: " one language" })
    expect(stopped.choices).toMatchObject([{ text: "You are watching", finish_reason: "stop" }])
    const { body } = await askJson(`${api.url}/tokenize`, { content: "Hello", add_special: true })
    const echoed = await openai.completions.create({
      ...greedy,
      prompt: body.tokens,
      echo: true,
      max_tokens: 2,
    })
    expect(echoed.choices[0]?.text).toMatch(/Hello\s*You are$/)
  })

  test("gets probabilities", async () => {
    const { choices } = await openai.completions.create({ ...greedy, max_tokens: 3, logprobs: 2 })
    const { logprobs } = choices[0]!
    expect(logprobs?.tokens).toEqual(["You", " are", " watching"])
    expect(logprobs?.text_offset).toEqual([0, 3, 7])
    expect(logprobs?.top_logprobs?.map((top) => Object.keys(top).length)).toEqual([2, 2, 2])
    expect(logprobs?.token_logprobs?.[0]).toBeGreaterThan(-0.1)
  })

  test("is told what is wrong with a request", async () => {
    const error = await openai.completions
      .create({ ...greedy, temperature: "hot" as never })
      .catch((error: unknown) => error)
    expect(error).toBeInstanceOf(BadRequestError)
    expect(error).toMatchObject({
      status: 400,
      type: "invalid_request_error",
      param: "temperature",
      message: '400 temperature: Expected number, actual "hot"',
    })
    const long = await openai.completions
      .create({ ...greedy, prompt: "Hello ".repeat(2000) })
      .catch((error: unknown) => error)
    expect(long).toMatchObject({
      status: 400,
      code: "context_length_exceeded",
      error: { n_ctx: api.model.contextSize - 1, n_prompt_tokens: expect.any(Number) },
    })
  })
})

describe("llama-server's completion", () => {
  const request = { prompt: "Hello", temperature: 0, n_predict: 4 }

  test("says what it did, and how long it took", async () => {
    const { status, body } = await askJson(`${api.url}/completion`, {
      ...request,
      n_probs: 3,
      return_tokens: true,
    })
    expect(status).toBe(200)
    expect(body).toMatchObject({
      content: "You are watching one",
      stop: true,
      stop_type: "limit",
      stopping_word: "",
      model: "demo",
      tokens_predicted: 4,
      tokens_evaluated: 7,
      truncated: false,
      generation_settings: { temperature: 0, top_k: 40, n_predict: 4, n_probs: 3 },
      timings: { predicted_n: 4 },
    })
    expect(body.tokens.length).toBe(4)
    expect(body.completion_probabilities.length).toBe(4)
    expect(body.completion_probabilities[0]).toMatchObject({
      token: "You",
      bytes: [89, 111, 117],
      top_logprobs: { length: 3 },
    })
  })

  test("comes in pieces", async () => {
    const { headers, body } = await ask(`${api.url}/completion`, { ...request, stream: true })
    expect(headers.get("content-type")).toBe("text/event-stream")
    const pieces = eventData(body).map((data) => JSON.parse(data))
    expect(pieces.map(({ content }) => content).join("")).toBe("You are watching one")
    expect(pieces.map(({ stop }) => stop)).toEqual([false, false, false, false, true])
    expect(pieces.at(-1)).toMatchObject({ stop_type: "limit", tokens_predicted: 4 })
  })

  test("stops at a word, and gives only the fields asked for", async () => {
    const { body } = await askJson(`${api.url}/completion`, {
      ...request,
      stop: [" watching"],
      response_fields: ["content", "stopping_word", "generation_settings/n_predict", "none"],
    })
    expect(body).toEqual({ content: "You are", stopping_word: " watching", n_predict: 4 })
  })

  test("forbids and favours tokens by number and by text", async () => {
    const completed = async (logit_bias: unknown) =>
      (await askJson(`${api.url}/completion`, { ...request, n_predict: 1, logit_bias })).body
        .content
    expect(await completed([])).toBe("You")
    expect(await completed([[260, false]])).not.toBe("You")
    expect(await completed({ "261": 1e6 })).toBe(" are")
    expect(await completed([["Y", 1e6]])).not.toBe("You")
  })

  test("follows a JSON schema", async () => {
    const json_schema = { type: "object", properties: { a: { const: 1 } }, required: ["a"] }
    const { body } = await askJson(`${api.url}/completion`, {
      ...request,
      n_predict: 60,
      json_schema,
    })
    expect(body.content).toMatch(/^\{\s*"a"\s*:\s*1/)
  })

  test("takes prompts of texts and tokens in every shape", async () => {
    const tokens = (await askJson(`${api.url}/tokenize`, { content: "Hi", add_special: true })).body
      .tokens as Array<number>
    const shapes = ["Hi", tokens, ["Hi"], [tokens], [[...tokens, "there"]], ["Hi", 260]]
    for (const prompt of shapes) {
      const { status, body } = await askJson(`${api.url}/completion`, { ...request, prompt })
      expect(status).toBe(200)
      expect(body.tokens_predicted).toBe(4)
    }
    const { body } = await askJson(`${api.url}/completion`, { ...request, prompt: ["Hi", tokens] })
    expect(body).toMatchObject([{ index: 0 }, { index: 1 }])
  })

  test.each([
    ["a grammar that is none", { grammar: "nonsense" }, /grammar is no GBNF/],
    [
      "a grammar that is nested too deep",
      { grammar: `root ::= ${"(".repeat(50_000)}"a"${")".repeat(50_000)}` },
      /parentheses/,
    ],
    ["a sampler that there is not", { samplers: ["luck"] }, /no sampler 'luck'/],
    ["a token that there is not", { logit_bias: [[100_000, 1]] }, /none 100000/],
    ["a token of the prompt that there is not", { prompt: [100_000] }, /100000/],
    ["more answers than anybody reads", { n: 1_000_000_000 }, /^n: /],
    ["a penalty of 0", { repeat_penalty: 0 }, /repeat_penalty/],
    ["a prompt that is none", { prompt: {} }, /prompt/],
    ["no prompt", { prompt: undefined }, /prompt/],
    ["an empty prompt", { prompt: [[]] }, /text is empty/],
    ["JSON's end missing", '{"prompt": "Hello"', /no JSON/],
  ])("tells of %s, streamed or not", async (_, change, message) => {
    for (const stream of [false, true]) {
      const { status, body } = await askJson(
        `${api.url}/completion`,
        typeof change === "string" ? change : { ...request, ...change, stream },
      )
      expect({ status, error: body.error }).toMatchObject({
        status: 400,
        error: {
          code: 400,
          type: "invalid_request_error",
          message: expect.stringMatching(message),
        },
      })
    }
  })
})
