/** `ggml-rpc embed` over a server of ours. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { Effect } from "effect"
import { ensureModel } from "../models/models.ts"
import { type OurServer, openCluster, run, startOurServer } from "../servers.ts"
import { runCli } from "./program.ts"

setDefaultTimeout(60_000)

let model: string
let server: OurServer

beforeAll(async () => {
  model = await ensureModel("tiny")
  server = await startOurServer()
}, 300_000)

afterAll(() => server?.stop())

const texts = ["one two three", "four five", "one two three", "six"]

const embed = async (...flags: ReadonlyArray<string>) => {
  const words = ["embed", model, "--rpc", server.endpoint, "-c", "256", "-t", "1"]
  const result = await runCli([...words, "-p", texts.join("\n"), "--pooling", "mean", ...flags])
  expect(result.exitCode).toBe(0)
  return result.stdout
}

/** The mean of what the model gives for each token. */
const meanOfTokens = (text: string): Promise<ReadonlyArray<number>> =>
  run(
    Effect.gen(function* () {
      const cluster = yield* openCluster([server.endpoint])
      const plan = yield* cluster.plan(model, {
        ...{ embeddings: true, pooling: "none", contextSize: 256, threads: 1 },
      })
      const loaded = yield* cluster.load(plan)
      const tokens = yield* loaded.tokenize(text)
      const { kind, values, columnCount } = yield* loaded.evaluate(tokens)
      expect(kind).toBe("embeddings")
      return Array.from({ length: columnCount }, (_, column) => {
        const outputs = tokens.map((_token, row) => values[row * columnCount + column]!)
        return outputs.reduce((sum, value) => sum + value, 0) / tokens.length
      })
    }),
  )

test("a vector a text, as the model's tokens give it, in the wanted length", async () => {
  const plain: number[][] = JSON.parse(
    await embed("--embd-output-format", "array", "--embd-normalize", "-1"),
  )
  expect(plain).toHaveLength(texts.length)
  for (const [index, text] of texts.entries()) {
    const expected = await meanOfTokens(text)
    const differences = plain[index]!.map((value, at) => Math.abs(value - expected[at]!))
    expect(Math.max(...differences)).toBeLessThan(1e-2)
    expect(Math.max(...expected.map(Math.abs))).toBeGreaterThan(0.1)
  }
  const unit: number[][] = JSON.parse(await embed("--embd-output-format", "array"))
  for (const [index, vector] of unit.entries()) {
    expect(Math.hypot(...vector)).toBeCloseTo(1, 4)
    const scale = Math.hypot(...plain[index]!)
    expect(vector[0]!).toBeCloseTo(plain[index]![0]! / scale, 4)
  }
})

test("as text, JSON and lines", async () => {
  const text = await embed()
  expect(text).toMatch(/^embedding 0: -?0\.\d+ /)
  expect(text).toContain("cosine similarities:\n 1.00 ")
  const { data, cosineSimilarity } = JSON.parse(await embed("--embd-output-format", "json+"))
  expect(data.map(({ index }: { index: number }) => index)).toEqual([0, 1, 2, 3])
  expect(cosineSimilarity[0][2]).toBeCloseTo(1, 3)
  expect(cosineSimilarity[0][1]).toBeLessThan(0.999)
  const lines = (await embed("--embd-output-format", "raw")).trim().split("\n")
  expect(lines.map((line) => line.split(" ").length)).toEqual(
    texts.map(() => data[0].embedding.length),
  )
})

test("what cannot be embedded is said", async () => {
  const none = await runCli(["embed", model, "-p", "\n \n"])
  expect(none).toMatchObject({ exitCode: 2, stdout: "" })
  expect(none.stderr).toContain("there is no text to embed")
  const unpooled = await runCli(["embed", model, "-p", "a", "-dev", "none", "-c", "256"])
  expect(unpooled).toMatchObject({ exitCode: 1, stdout: "" })
  expect(unpooled.stderr).toContain("--pooling")
  const long = await runCli([
    "embed",
    model,
    "-p",
    "a ".repeat(400),
    "-dev",
    "none",
    "-c",
    "256",
    "--pooling",
    "mean",
  ])
  expect(long.exitCode).toBe(1)
  expect(long.stderr).toContain("do not fit its context of 256")
})
