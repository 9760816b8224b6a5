/** The written models in libllama: its reader takes them, and the demo model recites whatever the options. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { readGguf } from "@ggml-rpc/gguf"
import { type ContextOptions, kvTypes, Llama } from "@ggml-rpc/native"
import { Effect } from "effect"
import { recitalText } from "ggml-rpc/demo-model"
import { ensureModel } from "./models.ts"

let folder = ""
let demo = ""
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-models-"))
  demo = join(folder, "demo.gguf")
  copyFileSync(await ensureModel("demo"), demo)
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

interface Generated {
  readonly text: string
  readonly ended: boolean
  /** Logits of the best token above those of the next best, at its smallest. */
  readonly smallestMargin: number
  /** A copy of all logits, step by step. */
  readonly logits: readonly Float32Array[]
}

interface GenerateOptions extends ContextOptions {
  readonly tokenCount?: number
  readonly ignoreEnd?: boolean
}

/** Greedy decoding by libllama on the CPU. */
const generate = (
  path: string,
  prompt: string,
  options: GenerateOptions = {},
): Promise<Generated> => {
  const { tokenCount = 300, ignoreEnd = false, ...contextOptions } = options
  const program = Effect.gen(function* () {
    const llama = yield* Llama.Llama
    const model = yield* llama.loadModel(path)
    const context = yield* model.newContext({ contextSize: 1024, threads: 1, ...contextOptions })
    const detokenizer = model.detokenizer()
    const steps: Float32Array[] = []
    let tokens = yield* model.tokenize(prompt)
    let text = ""
    let smallestMargin = Infinity
    while (steps.length < tokenCount) {
      expect(context.decode(tokens)).toBe(0)
      const logits = context.logits().slice()
      if (ignoreEnd) {
        for (const [id] of logits.entries()) {
          if (model.isEndOfGeneration(id)) logits[id] = -Infinity
        }
      }
      const { best, margin } = ranked(logits)
      steps.push(logits)
      smallestMargin = Math.min(smallestMargin, margin)
      if (model.isEndOfGeneration(best)) return { text, ended: true, smallestMargin, logits: steps }
      text += detokenizer.push(best)
      tokens = Int32Array.of(best)
    }
    return { text, ended: false, smallestMargin, logits: steps }
  })
  return Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(Llama.layer)))
}

const ranked = (logits: Float32Array) => {
  let best = 0
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[best]!) best = i
  let second = -Infinity
  for (let i = 0; i < logits.length; i++) if (i !== best) second = Math.max(second, logits[i]!)
  return { best, margin: logits[best]! - second }
}

/** Writes the demo model again with some tensors' bytes all zero. */
const withoutTensors = (name: string, isGone: (tensorName: string) => boolean): string => {
  const gguf = readGguf(demo)
  const bytes = readFileSync(demo)
  for (const tensor of gguf.tensors.filter((one) => isGone(one.name))) {
    const start = gguf.parts[0]!.dataOffsetBytes + tensor.offsetBytes
    bytes.fill(0, start, start + tensor.sizeBytes)
  }
  const path = join(folder, name)
  writeFileSync(path, bytes)
  return path
}

const largestDifference = (a: Float32Array, b: Float32Array) =>
  a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - b[i]!)), 0)

describe("the demo model", () => {
  test.each<[string, ContextOptions]>([
    ["F16 cache, no flash attention", { flashAttention: 0 }],
    ["F16 cache, flash attention", { flashAttention: 1 }],
    ["F32 cache, flash attention", { typeK: kvTypes.f32, typeV: kvTypes.f32, flashAttention: 1 }],
    ["Q8_0 cache", { typeK: kvTypes.q8_0, typeV: kvTypes.q8_0, flashAttention: 1 }],
    ["Q4_0 cache", { typeK: kvTypes.q4_0, typeV: kvTypes.q4_0, flashAttention: 1 }],
    ["micro batches of 8", { ubatchSize: 8, batchSize: 64 }],
  ])("recites and ends: %s", async (_, options) => {
    const result = await generate(demo, "Tell me what this is, please.", options)
    expect(result.text).toBe(recitalText)
    expect(result.ended).toBe(true)
    expect(result.smallestMargin).toBeGreaterThan(6)
  })

  test.each([
    "",
    "Grüße, 日本 🙂",
    "You are watching one",
    "</s> layers <unk>\n\n",
    "x".repeat(700),
  ])("recites after %j", async (prompt) => {
    const result = await generate(demo, prompt)
    expect(result.text).toBe(recitalText)
    expect(result.smallestMargin).toBeGreaterThan(6)
  })

  test("recites again and again when its end is ignored", async () => {
    const result = await generate(demo, "Hi", { ignoreEnd: true, tokenCount: 200 })
    expect(result.ended).toBe(false)
    expect((recitalText + recitalText).startsWith(result.text)).toBe(true)
    expect(result.text.length).toBeGreaterThan(recitalText.length)
    expect(result.smallestMargin).toBeGreaterThan(6)
  })

  test("every layer moves the logits and none the words", async () => {
    const whole = await generate(demo, "Hi")
    for (let layer = 0; layer < 8; layer++) {
      const path = withoutTensors(`without-${layer}.gguf`, (name) =>
        name.startsWith(`blk.${layer}.`),
      )
      const changed = await generate(path, "Hi")
      expect(changed.text).toBe(recitalText)
      expect(changed.smallestMargin).toBeGreaterThan(6)
      const differences = changed.logits.map((one, step) =>
        largestDifference(one, whole.logits[step]!),
      )
      expect(Math.min(...differences)).toBeGreaterThan(0.05)
    }
  })

  test("attention matters to the end: without one layer's values the logits differ", async () => {
    const whole = await generate(demo, "Hi")
    const changed = await generate(
      withoutTensors("without-values.gguf", (name) => name === "blk.3.attn_v.weight"),
      "Hi",
    )
    expect(largestDifference(changed.logits.at(-1)!, whole.logits.at(-1)!)).toBeGreaterThan(0.01)
  })
})

describe("the random models", () => {
  test.each(["tiny", "mixed", "q4_0", "q8_0"] as const)("%s loads and computes", async (name) => {
    const path = await ensureModel(name)
    const result = await generate(path, "Hello", { tokenCount: 8, ignoreEnd: true })
    for (const logits of result.logits) {
      const spread = Math.sqrt(
        logits.reduce((sum, x) => sum + (x > -1e9 ? x * x : 0), 0) / logits.length,
      )
      expect(spread).toBeGreaterThan(0.1)
      expect(spread).toBeLessThan(10)
    }
    const again = await generate(path, "Hello", { tokenCount: 8, ignoreEnd: true })
    expect(again.text).toBe(result.text)
  })
})
