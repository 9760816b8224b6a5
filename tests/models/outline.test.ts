/** Models are measured by files without their vocabularies: what libllama says of both is the same. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type GgufFile, type GgufValue, readGguf, saveGgufOutline } from "@ggml-rpc/gguf"
import { Llama } from "@ggml-rpc/native"
import { Effect } from "effect"
import { ensureArchitectureModels } from "../peers/models.ts"
import { ensureModel } from "./models.ts"

setDefaultTimeout(120_000)

let folder = ""
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-outline-"))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** As it would be read if its vocabulary were a large one. */
const withLongVocabulary = (gguf: GgufFile): GgufFile => ({
  ...gguf,
  metadata: new Map(
    [...gguf.metadata].map(([key, value]): [string, GgufValue] => {
      if (value.type !== "array" || key !== "tokenizer.ggml.tokens") return [key, value]
      const { values: _, ...skipped } = value
      return [key, skipped]
    }),
  ),
})

const measure = (path: string) =>
  Effect.runPromise(
    Effect.scoped(
      Effect.gen(function* () {
        const llama = yield* Llama.Llama
        const model = yield* llama.loadModel(path, { mmap: false, noAlloc: true })
        const context = yield* model.newContext({ contextSize: 256, threads: 1 })
        const { vocabSize, embeddingSize, hasEncoder, isRecurrent, isHybrid } = model.info
        const facts = { vocabSize, embeddingSize, hasEncoder, isRecurrent, isHybrid }
        return { facts, breakdown: context.memoryBreakdown() }
      }),
    ).pipe(Effect.provide(Llama.layer)),
  )

test("every architecture takes the same memory without its vocabulary", async () => {
  const models = await ensureArchitectureModels()
  expect(models).toHaveLength(127)
  const outline = join(folder, "outline.gguf")
  for (const { name, path } of models) {
    expect({ name, isMade: saveGgufOutline(withLongVocabulary(readGguf(path)), outline) }).toEqual({
      name,
      isMade: true,
    })
    expect({ name, ...(await measure(outline)) }).toEqual({ name, ...(await measure(path)) })
  }
})

test("a large vocabulary is not in it, and its weights take no room", async () => {
  const path = await ensureModel("q4_0")
  const outline = join(folder, "q4_0.gguf")
  expect(saveGgufOutline(readGguf(path), outline)).toBe(true)
  expect(statSync(outline).blocks * 512).toBeLessThan(64 * 1024)
  const { tensors, metadata } = readGguf(outline)
  const given = readGguf(path)
  const shapes = (gguf: GgufFile) =>
    gguf.tensors.map(({ name, typeName, ne }) => [name, typeName, ne])
  expect(shapes(readGguf(outline))).toEqual(shapes(given))
  expect(tensors.length).toBe(given.tensors.length)
  expect(metadata.has("tokenizer.ggml.tokens")).toBe(false)
  expect(await measure(outline)).toEqual(await measure(path))
})
