/** Embeddings and ranks, by every dialect that has them. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect } from "effect"
import { Ollama } from "ollama"
import OpenAI from "openai"
import { writeEncoderModels } from "../models/encoders.ts"
import { askJson, type StartedApi, startApi } from "./apiServer.ts"

setDefaultTimeout(60_000)

const folder = mkdtempSync(join(tmpdir(), "ggml-rpc-embeddings-"))
let api: StartedApi
let path = ""
beforeAll(async () => {
  path = writeEncoderModels(folder).bert
  api = await startApi(path, {
    name: "bert",
    plan: { embeddings: true, pooling: "mean", contextSize: 64 },
  })
})
afterAll(async () => {
  await api?.stop()
  rmSync(folder, { recursive: true, force: true })
})

const texts = [
  [5, 10, 20],
  [7, 8, 310, 42],
]

const lengthOf = (vector: ReadonlyArray<number>): number => Math.hypot(...vector)

describe("a text's embedding", () => {
  test("is the model's, made of length 1, for OpenAI's client in both encodings", async () => {
    const openai = new OpenAI({ baseURL: `${api.url}/v1`, apiKey: "none", maxRetries: 0 })
    const embedded = async (encoding_format?: "float" | "base64") =>
      openai.embeddings.create({
        model: "bert",
        input: texts as never,
        ...(encoding_format && { encoding_format }),
      })
    // The client's default is base64, which it decodes.
    const [plain, packed] = [await embedded("float"), await embedded()]
    expect(plain).toMatchObject({
      object: "list",
      data: [{ index: 0 }, { index: 1 }],
      usage: { prompt_tokens: 7, total_tokens: 7 },
    })
    const own = await Effect.runPromise(api.model.embed(texts[1]!))
    const vector = plain.data[1]!.embedding
    expect(vector.length).toBe(64)
    expect(lengthOf(vector)).toBeCloseTo(1, 5)
    expect(vector[3]).toBeCloseTo(own[3]! / lengthOf([...own]), 5)
    expect(packed.data[1]!.embedding[3]).toBeCloseTo(vector[3]!, 6)
  })

  test("comes by llama-server's and Ollama's fields too", async () => {
    const { body } = await askJson(`${api.url}/embedding`, {
      content: texts[1],
      embd_normalize: -1,
    })
    const own = await Effect.runPromise(api.model.embed(texts[1]!))
    expect(body[0].embedding[0][3]).toBeCloseTo(own[3]!, 5)
    const ollama = new Ollama({ host: api.url })
    const { embeddings, prompt_eval_count } = await ollama.embed({
      model: "bert",
      input: ["a", "b".repeat(500)],
    })
    expect(embeddings.map(({ length }) => length)).toEqual([64, 64])
    expect(prompt_eval_count).toBeGreaterThan(2)
  })

  test("is refused for a text that is too long or empty, and texts are by a model for embeddings", async () => {
    const refused = (path: string, request: object) => askJson(`${api.url}${path}`, request)
    expect(await refused("/v1/embeddings", { input: Array(200).fill(5) })).toMatchObject({
      status: 400,
      body: { error: { code: "context_length_exceeded" } },
    })
    expect(await refused("/v1/embeddings", { input: [[]] })).toMatchObject({ status: 400 })
    expect(await refused("/embedding", {})).toMatchObject({ status: 400 })
    expect(await refused("/completion", { prompt: [5] })).toMatchObject({
      status: 400,
      body: { error: { message: expect.stringContaining("embeddings") } },
    })
    expect(await refused("/rerank", { query: "a", documents: ["b"] })).toMatchObject({
      status: 501,
      body: { error: { message: expect.stringContaining("--reranking") } },
    })
  })
})
