/** Gaps in code, by a model whose vocabulary has tokens for them. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { writeGguf } from "@ggml-rpc/gguf"
import { demoModel } from "ggml-rpc/demo-model"
import { ensureModel } from "../models/models.ts"
import { askJson, type StartedApi, startApi } from "./apiServer.ts"

setDefaultTimeout(60_000)

const folder = mkdtempSync(join(tmpdir(), "ggml-rpc-infill-"))
/** Tokens of the demo's text do as marks. */
const marks = { fim_pre: 300, fim_suf: 301, fim_mid: 302, fim_rep: 303, fim_sep: 304 } as const
let api: StartedApi
beforeAll(async () => {
  const path = join(folder, "infill.gguf")
  const model = demoModel()
  const ids = Object.entries(marks).map(
    ([mark, value]) => [`tokenizer.ggml.${mark}_token_id`, { type: "uint32", value }] as const,
  )
  writeGguf(path, { ...model, metadata: [...model.metadata, ...ids] })
  // Other files get what a batch leaves of the context.
  api = await startApi(path, { plan: { batchSize: 512 } })
})
afterAll(async () => {
  await api?.stop()
  rmSync(folder, { recursive: true, force: true })
})

const detokenized = async (tokens: ReadonlyArray<number>): Promise<string> =>
  (await askJson(`${api.url}/detokenize`, { tokens })).body.content

const tokensOf = async (content: string): Promise<ReadonlyArray<number>> =>
  (await askJson(`${api.url}/tokenize`, { content, parse_special: false })).body.tokens

test("a prompt has what is before and behind the gap, and other files before", async () => {
  const { body } = await askJson(`${api.url}/infill`, {
    input_prefix: "def f(",
    input_suffix: "return x",
    input_extra: [{ filename: "a.py", text: "import os" }],
    prompt: "x",
    n_predict: 2,
  })
  const { info } = api.model
  const prompt = [
    ...(info.addsBeginToken ? [info.beginToken] : []),
    ...[marks.fim_rep, ...(await tokensOf("myproject\n"))],
    ...[marks.fim_sep, ...(await tokensOf("a.py\n")), ...(await tokensOf("import os"))],
    ...[marks.fim_sep, ...(await tokensOf("filename\n"))],
    ...[marks.fim_pre, ...(await tokensOf("def f("))],
    ...[marks.fim_suf, ...(await tokensOf("return x"))],
    ...[marks.fim_mid, ...(await tokensOf("x"))],
  ]
  expect(body.prompt).toBe(await detokenized(prompt))
  expect(body).toMatchObject({ tokens_evaluated: prompt.length, tokens_predicted: 2 })
})

test("a model without such tokens says so", async () => {
  const plain = await startApi(await ensureModel("demo"))
  const answer = await askJson(`${plain.url}/infill`, { input_prefix: "a", input_suffix: "b" })
  expect(answer).toMatchObject({
    status: 501,
    body: { error: { type: "not_supported_error", message: expect.stringContaining("gaps") } },
  })
  expect(await askJson(`${plain.url}/infill`, { input_prefix: "a" })).toMatchObject({
    status: 400,
    body: { error: { message: expect.stringContaining("input_suffix") } },
  })
  await plain.stop()
})
