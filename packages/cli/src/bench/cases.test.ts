import { expect, test } from "bun:test"
import { contextSizeFor, nameOfTest, settingsOf, testsOf, tokenCountOf } from "./cases.ts"

const choices = {
  nPrompt: [512, 0],
  nGen: [0, 128],
  promptAndText: [
    { prompt: 64, text: 8 },
    { prompt: 0, text: 0 },
  ],
  depth: [0, 4096],
  parallel: [1, 8],
}

test("tests: prompts, texts, both; each so many at once, at each depth; none of nothing", () => {
  const tests = testsOf(choices)
  expect(tests.map((one) => `${nameOfTest(one)} × ${one.parallel}`)).toEqual([
    ...["pp512 × 1", "pp512 × 8", "tg128 × 1", "tg128 × 8", "pp64+tg8 × 1", "pp64+tg8 × 8"],
    ...["pp512 @ d4096 × 1", "pp512 @ d4096 × 8", "tg128 @ d4096 × 1", "tg128 @ d4096 × 8"],
    ...["pp64+tg8 @ d4096 × 1", "pp64+tg8 @ d4096 × 8"],
  ])
  expect(tests.slice(-1).map(tokenCountOf)).toEqual([8 * 72])
  expect(testsOf({ ...choices, nPrompt: [0], nGen: [0], promptAndText: undefined })).toEqual([])
})

test("a context is full of no test", () => {
  const text = { promptCount: 0, textCount: 128, depth: 100, parallel: 4 }
  // A token that begins it, and 127 of those that were generated.
  expect(contextSizeFor(text)).toBeGreaterThan(4 * (100 + 128))
  expect(contextSizeFor({ ...text, promptCount: 16 })).toBeGreaterThan(4 * (100 + 16 + 128))
})

test("settings: every combination, the model changing last", () => {
  const settings = settingsOf({
    paths: ["a.gguf", "b.gguf"],
    gpuLayers: [-1],
    splitModes: ["layer"],
    wires: ["f32"],
    tensorSplits: undefined,
    batchSize: [2048],
    ubatchSize: [128, 512],
    typeK: ["f16"],
    typeV: ["f16"],
    flashAttention: ["on", "off"],
    threads: [1],
  })
  expect(
    settings.map(({ path, ubatchSize, flashAttention }) => [path, ubatchSize, flashAttention]),
  ).toEqual([
    ["a.gguf", 128, "on"],
    ["a.gguf", 128, "off"],
    ["a.gguf", 512, "on"],
    ["a.gguf", 512, "off"],
    ["b.gguf", 128, "on"],
    ["b.gguf", 128, "off"],
    ["b.gguf", 512, "on"],
    ["b.gguf", 512, "off"],
  ])
  expect(settings[0]!.tensorSplit).toBeUndefined()
})
