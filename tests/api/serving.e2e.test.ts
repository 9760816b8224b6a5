/** What holds for every endpoint: keys, origins, sizes, queues, and clients that go or do not read. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { connect, type Socket } from "node:net"
import { serveApi } from "@ggml-rpc/api"
import { Effect } from "effect"
import { ensureModel } from "../models/models.ts"
import { waitUntil } from "../peers/process.ts"
import { ask, askJson, eventData, type StartedApi, startApi } from "./apiServer.ts"

setDefaultTimeout(60_000)

let path = ""
beforeAll(async () => {
  path = await ensureModel("tiny")
})

const started: Array<StartedApi> = []
const start = async (setup: Parameters<typeof startApi>[1] = {}): Promise<StartedApi> => {
  const api = await startApi(path, setup)
  started.push(api)
  return api
}
afterAll(() => Promise.all(started.map(({ stop }) => stop())))

/** Token ids: the model's vocabulary is no language. */
const prompt = [5, 6, 7]
const endless = { prompt, n_predict: -1, ignore_eos: true, temperature: 0 }

const soon = async (condition: () => boolean | Promise<boolean>): Promise<void> =>
  expect(await waitUntil(condition, 20_000)).toBe(true)

const isIdle = async ({ url }: StartedApi): Promise<boolean> =>
  /requests_processing 0\n/.test((await ask(`${url}/metrics`)).body)

describe("before there is a model", () => {
  test("everything is answered with 503, in the words of its dialect", async () => {
    await Effect.runPromise(
      Effect.scoped(
        Effect.flatMap(serveApi({ port: 0 }), ({ url }) =>
          Effect.promise(async () => {
            const health = await askJson(`${url}/health`)
            expect(health).toMatchObject({
              status: 503,
              body: { error: { code: 503, message: "Loading model", type: "unavailable_error" } },
            })
            const models = await askJson(`${url}/v1/models`)
            expect(models).toMatchObject({ status: 503, body: { error: { type: "server_error" } } })
          }),
        ),
      ),
    )
  })

  test("a port that is taken is told", async () => {
    const taken = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() })
    const error = await Effect.runPromise(
      Effect.scoped(Effect.flip(serveApi({ port: taken.port! }))),
    )
    expect(error.message).toMatch(
      new RegExp(`^Cannot listen on 127.0.0.1:${taken.port}: .+ Choose another --port`),
    )
    await taken.stop(true)
  })
})

describe("keys", () => {
  test("are asked for where there are any, but for the health", async () => {
    const { url } = await start({ apiKeys: ["first", "second"] })
    const body = { prompt, n_predict: 1 }
    expect((await ask(`${url}/health`)).status).toBe(200)
    const refused = await askJson(`${url}/completion`, body)
    expect(refused).toMatchObject({
      status: 401,
      body: { error: { type: "authentication_error" } },
    })
    const wrong = await askJson(`${url}/v1/completions`, body, { authorization: "Bearer third" })
    expect(wrong).toMatchObject({ status: 401, body: { error: { code: "invalid_api_key" } } })
    for (const headers of [{ authorization: "Bearer second" }, { "x-api-key": "first" }]) {
      expect((await ask(`${url}/completion`, body, headers)).status).toBe(200)
    }
  })
})

describe("web pages", () => {
  test("of other origins may not ask, unless they are named", async () => {
    const { url } = await start({ corsOrigins: ["https://good.example"] })
    const from = (origin: string) => ask(`${url}/completion`, { prompt, n_predict: 1 }, { origin })
    expect((await from("https://bad.example")).status).toBe(403)
    expect((await from(url)).status).toBe(200)
    const good = await from("https://good.example")
    expect(good.status).toBe(200)
    expect(good.headers.get("access-control-allow-origin")).toBe("https://good.example")
    const preflight = await fetch(`${url}/completion`, {
      method: "OPTIONS",
      headers: { origin: "https://good.example", "access-control-request-method": "POST" },
    })
    expect(preflight.status).toBe(204)
    expect(preflight.headers.get("access-control-allow-methods")).toContain("POST")
  })
})

describe("a model that is lost", () => {
  test.each([
    ["/v1/completions", '{"error":{"message":', "server_error"],
    ["/api/generate", '{"error":"', "SIGKILL"],
    ["/completion", 'data: {"error":{"code":503', "unavailable_error"],
  ])("ends a stream of %s with an error in its words", async (endpoint, beginning, word) => {
    const api = await start({ plan: { contextSize: 4096 } })
    const ended = Effect.runPromise(Effect.flip(api.ended))
    const body = JSON.stringify({
      ...endless,
      prompt: "word5",
      raw: true,
      options: { ignore_eos: true },
      stream: true,
    })
    const response = await fetch(api.url + endpoint, { method: "POST", body })
    const reader = response.body!.getReader()
    await reader.read()
    process.kill(api.enginePid, "SIGKILL")
    let text = ""
    const decoder = new TextDecoder()
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      text += decoder.decode(read.value, { stream: true })
    }
    const last = text.trim().split("\n").at(-1)
    expect(last).toContain(beginning)
    expect(last).toContain(word)
    expect((await ended)._tag).toBe("EngineEndedError")
    expect((await ask(`${api.url}/completion`, { prompt })).status).toBe(503)
  })
})

test("a server for this machine alone answers under no other name, unless it is told of it", async () => {
  const { url } = await start({ corsOrigins: ["http://models.example:9000"] })
  const under = async (host: string) => (await ask(`${url}/health`, undefined, { host })).status
  expect(await under("evil.example:80")).toBe(403)
  expect(await under("models.example:9000")).toBe(200)
  expect(await under("localhost:80")).toBe(200)
})

describe("requests", () => {
  test("that are too large are refused, whether they say so or not", async () => {
    const { url } = await start({ maxRequestBytes: 1000 })
    const announced = await askJson(`${url}/v1/completions`, { prompt: "x".repeat(2000) })
    expect(announced).toMatchObject({ status: 413, body: { error: { code: "request_too_large" } } })
    const chunks = new ReadableStream({
      pull: (controller) => controller.enqueue(new Uint8Array(600)),
    })
    const unannounced = await fetch(`${url}/completion`, { method: "POST", body: chunks })
    expect(unannounced.status).toBe(413)
  })

  test("that no slot and no place in the queue is free for are told when to come back", async () => {
    const api = await start({ maxQueued: 1, hasMetrics: true })
    const abort = new AbortController()
    const running = [0, 1].map(() =>
      fetch(`${api.url}/completion`, {
        method: "POST",
        body: JSON.stringify(endless),
        signal: abort.signal,
      }).catch(() => undefined),
    )
    await soon(async () => /requests_deferred 1\n/.test((await ask(`${api.url}/metrics`)).body))
    const refused = await askJson(`${api.url}/v1/completions`, { prompt })
    expect(refused).toMatchObject({ status: 429, body: { error: { code: "rate_limit_exceeded" } } })
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThanOrEqual(1)
    abort.abort()
    await Promise.all(running)
    await soon(() => isIdle(api))
    expect((await ask(`${api.url}/completion`, { prompt, n_predict: 1 })).status).toBe(200)
  })
})

test("a request of many texts takes one place in the queue, and all of them have their turns", async () => {
  const { url } = await start({ maxQueued: 0, plan: { slots: 2 } })
  const prompts = Array.from({ length: 20 }, (_, index) => [10 + index, 6])
  const { status, body } = await askJson(`${url}/v1/completions`, {
    prompt: prompts,
    max_tokens: 2,
    ignore_eos: true,
  })
  expect(status).toBe(200)
  expect(body.choices.map(({ index }: { index: number }) => index)).toEqual(
    prompts.map((_, index) => index),
  )
})

describe("a client", () => {
  test("that goes away frees its place, whether it streams or waits", async () => {
    const api = await start({ hasMetrics: true })
    for (const stream of [true, false]) {
      const abort = new AbortController()
      const answer = fetch(`${api.url}/completion`, {
        method: "POST",
        body: JSON.stringify({ ...endless, stream }),
        signal: abort.signal,
      })
      if (stream) await (await answer).body?.getReader().read()
      await soon(async () => !(await isIdle(api)))
      abort.abort()
      await answer.catch(() => undefined)
      await soon(() => isIdle(api))
    }
  })

  test("that does not read is given up after a while, and stops nobody", async () => {
    const api = await start({
      readTimeoutMs: 500,
      hasMetrics: true,
      plan: { contextSize: 4096, slots: 2 },
    })
    const body = JSON.stringify({ ...endless, stream: true, n_probs: 100 })
    const socket = await new Promise<Socket>((resolve) => {
      const opened = connect(api.port, "127.0.0.1", () => resolve(opened))
    })
    socket.pause()
    let isClosed = false
    socket.on("error", () => {})
    socket.on("close", () => {
      isClosed = true
    })
    socket.write(
      `POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    )
    await soon(async () => !(await isIdle(api)))
    const { body: other } = await ask(`${api.url}/completion`, {
      prompt,
      n_predict: 20,
      stream: true,
      temperature: 0,
      ignore_eos: true,
    })
    expect(eventData(other).length).toBe(21)
    await soon(() => isIdle(api))
    socket.resume()
    await soon(() => isClosed)
  })
})

test("the OpenAPI document has the endpoints, and errors as their dialects tell them", async () => {
  const { url } = await start()
  const { body } = await askJson(`${url}/openapi.json`)
  expect(Object.keys(body.paths)).toEqual(
    expect.arrayContaining(["/v1/chat/completions", "/v1/messages", "/api/chat", "/completion"]),
  )
  const errorOf = (path: string) =>
    body.paths[path].post.responses.default.content["application/json"].schema.properties
  expect(errorOf("/v1/chat/completions").error.properties).toContainKeys(["type", "param", "code"])
  expect(errorOf("/v1/messages").type.enum).toEqual(["error"])
  expect(errorOf("/api/chat").error.type).toBe("string")
  expect(JSON.stringify(body)).not.toContain("ApiError")
  const schemas: ReadonlyArray<string> = Object.keys(body.components.schemas)
  const references = [...JSON.stringify(body).matchAll(/#\/components\/schemas\/(\w+)/g)]
  for (const [, name] of references) expect(schemas).toContain(name!)
})

test("guesses change no answer and no probabilities, and are told in timings and metrics", async () => {
  const repeating = Array.from({ length: 60 }, (_, index) => 20 + (index % 5))
  const request = { prompt: repeating, n_predict: 32, temperature: 0, n_probs: 2, ignore_eos: true }
  const bias = { logit_bias: [[21, 100]] }
  const answerOf = async (plan: Parameters<typeof startApi>[1] = {}) => {
    const { url } = await start({ hasMetrics: true, ...plan })
    const { body } = await askJson(`${url}/completion`, { ...request, ...bias })
    return { body, metrics: (await ask(`${url}/metrics`)).body }
  }
  const plain = await answerOf()
  const ngram = { lookupCount: 2, draftCount: 8 }
  const guessed = await answerOf({ plan: { speculation: { ngram } } })
  expect(guessed.body.content).toBe(plain.body.content)
  const chosen = (body: { completion_probabilities: ReadonlyArray<{ id: number }> }) =>
    body.completion_probabilities.map(({ id }) => id)
  expect(chosen(guessed.body)).toEqual(chosen(plain.body))
  expect(plain.body.timings).not.toHaveProperty("draft_n")
  const { draft_n: drafted, draft_n_accepted: accepted } = guessed.body.timings
  expect(accepted).toBeGreaterThan(16)
  expect(drafted).toBeGreaterThanOrEqual(accepted)
  expect(guessed.metrics).toContain(`llamacpp:spec_decode_num_draft_tokens_total ${drafted}\n`)
  expect(guessed.metrics).toContain(`llamacpp:spec_decode_num_accepted_tokens_total ${accepted}\n`)
})
