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
let paths: ReturnType<typeof writeEncoderModels>
beforeAll(async () => {
  paths = writeEncoderModels(folder)
  api = await startApi(paths.bert, {
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

test("documents are ranked by how well they answer a query, in both forms", async () => {
  const ranking = await startApi(paths.rank, {
    name: "rank",
    plan: { embeddings: true, pooling: "rank", contextSize: 128, slots: 2 },
  })
  const documents = ["a bear", "a panda eats", "nothing"]
  const { body } = await askJson(`${ranking.url}/v1/rerank`, { query: "panda", documents })
  expect(body).toMatchObject({ object: "list", model: "rank" })
  const results = body.results as ReadonlyArray<{ index: number; relevance_score: number }>
  expect(results.map(({ index }) => index).sort()).toEqual([0, 1, 2])
  const scores = results.map(({ relevance_score }) => relevance_score)
  expect(scores).toEqual([...scores].sort((one, other) => other - one))
  expect(new Set(scores).size).toBe(3)
  // Each is the score of query and document in a row.
  const tokensOf = async (content: string): Promise<Array<number>> =>
    (await askJson(`${ranking.url}/tokenize`, { content, add_special: false })).body.tokens
  const { addsBeginToken, beginToken } = ranking.model.info
  const joined = [
    ...(addsBeginToken ? [beginToken] : []),
    ...(await tokensOf("panda")),
    ...(await tokensOf(documents[results[0]!.index]!)),
  ]
  const [own] = await Effect.runPromise(ranking.model.embed(joined))
  expect(scores[0]).toBeCloseTo(own!, 4)
  const texts = await askJson(`${ranking.url}/rerank`, {
    query: "panda",
    texts: documents,
    top_n: 1,
    return_text: true,
  })
  const [best] = results
  expect(texts.body).toMatchObject([{ index: best!.index, text: documents[best!.index] }])
  expect(await askJson(`${ranking.url}/rerank`, { query: "panda" })).toMatchObject({ status: 400 })
  await ranking.stop()
})
