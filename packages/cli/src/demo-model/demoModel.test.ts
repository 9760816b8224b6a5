import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type GgufFile, ggufString, layerBytes, readGguf, readGgufArray } from "@ggml-rpc/gguf"
import { loadReference, makeReference, type ReferenceModel } from "../../test/reference.ts"
import { demoModel, recitalText, recitalTokens, writeDemoModel } from "./index.ts"

const LAYERS = 8
const BEGIN = 1
const END = 2
/** Byte tokens follow the three marks. */
const byteToken = (byte: number) => 3 + byte

let folder = ""
let path = ""
let gguf: GgufFile
let model: ReferenceModel
let pieces: readonly string[] = []

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-demo-model-"))
  path = join(folder, "demo.gguf")
  writeDemoModel(path)
  gguf = readGguf(path)
  model = loadReference(path)
  pieces = readGgufArray(gguf, "tokenizer.ggml.tokens") as readonly string[]
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** As the vocabulary's tokenizer reads a prompt: the begin mark, a space, bytes. */
const promptTokens = (prompt: string) => [
  BEGIN,
  ...(prompt === "" ? [] : [pieces.indexOf("▁")]),
  ...new TextEncoder().encode(prompt).map(byteToken),
]

const ranked = (logits: Float32Array) => {
  let best = 0
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[best]!) best = i
  let second = -Infinity
  for (let i = 0; i < logits.length; i++) if (i !== best) second = Math.max(second, logits[i]!)
  return { best, margin: logits[best]! - second }
}

interface Recital {
  readonly tokens: readonly number[]
  readonly logits: readonly Float32Array[]
  readonly smallestMargin: number
}

/** Greedy decoding until the end mark, or 300 tokens. */
const recite = (prompt: readonly number[], layerScale?: readonly number[]): Recital => {
  const evaluate = makeReference(model, layerScale)
  const tokens: number[] = []
  const all: Float32Array[] = []
  let smallestMargin = Infinity
  let logits = prompt.map((token) => evaluate(token)).at(-1)!
  while (tokens.length < 300) {
    const { best, margin } = ranked(logits)
    smallestMargin = Math.min(smallestMargin, margin)
    all.push(logits)
    tokens.push(best)
    if (best === END) break
    logits = evaluate(best)
  }
  return { tokens, logits: all, smallestMargin }
}

const textOf = (tokens: readonly number[]) =>
  tokens.map((token) => pieces[token]!.replaceAll("▁", " ")).join("")

const largestDifference = (a: Float32Array, b: Float32Array) =>
  a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - b[i]!)), 0)

describe("recital tokens", () => {
  test("are unique and spell the text", () => {
    const tokens = recitalTokens(recitalText)
    expect(new Set(tokens).size).toBe(tokens.length)
    expect(tokens.join("").replaceAll("▁", " ")).toBe(recitalText)
  })

  test("go on over the next word where they would repeat", () => {
    expect(recitalTokens("one two three one two one two end")).toEqual(
      "one,▁two,▁three,▁one,▁two▁one,▁two▁end".split(","),
    )
    expect(recitalTokens("one\n\none two one\n\n")).toEqual(["one\n\n", "one", "▁two", "▁one\n\n"])
  })

  test("are too long to be found in a prompt", () => {
    expect(recitalTokens("to a or b or a plan")).toEqual(["to▁a", "▁or", "▁b▁or", "▁a▁plan"])
    expect(Math.min(...recitalTokens(recitalText).map((token) => token.length))).toBe(3)
  })

  test("a repetition at the very end joins what came before", () => {
    expect(recitalTokens("this is so so so is")).toEqual(["this", "▁is", "▁so", "▁so▁so▁is"])
    expect(recitalTokens("this is so is")).toEqual(["this", "▁is", "▁so▁is"])
  })
})

describe("the file", () => {
  test("is small, split into eight layers, and says that it is constructed", () => {
    expect(statSync(path).size).toBeLessThan(3_000_000)
    const { layers, tiedOutput } = layerBytes(gguf)
    expect(layers.length).toBe(LAYERS)
    expect(new Set(layers).size).toBe(1)
    expect(tiedOutput).toBe(false)
    expect(ggufString(gguf, "general.description")).toContain("Constructed, not trained")
    expect(recitalText).toContain("constructed, not trained")
  })

  test("is always the same", () => {
    const again = join(folder, "again.gguf")
    writeDemoModel(again)
    expect(readFileSync(again).equals(readFileSync(path))).toBe(true)
  })

  test("a text with too many words, or none, is refused", () => {
    const words = Array.from({ length: 192 }, (_, index) => `word${index}`)
    expect(() => demoModel(words.join(" "))).toThrow("at most 191 fit")
    expect(() => demoModel("")).toThrow("0 tokens")
  })
})

describe("greedy decoding", () => {
  test.each(["", "Hello, who are you?", "Grüße, 日本 🙂 \u0000\n", "a ".repeat(100)])(
    "recites the text after %j and ends",
    (prompt) => {
      const { tokens, smallestMargin } = recite(promptTokens(prompt))
      expect(tokens.at(-1)).toBe(END)
      expect(textOf(tokens.slice(0, -1))).toBe(recitalText)
      expect(smallestMargin).toBeGreaterThan(6)
    },
  )

  test("begins anew where the end mark is banned", () => {
    const { logits, tokens } = recite(promptTokens(""))
    const last = logits.at(-1)!.slice()
    last[END] = -Infinity
    const { best, margin } = ranked(last)
    expect(best).toBe(tokens[0]!)
    expect(margin).toBeGreaterThan(6)
  })
})

describe("every layer", () => {
  const scales = Array.from({ length: LAYERS }, (_, layer) => layer).flatMap((layer) => [
    [layer, 0] as const,
    [layer, 2] as const,
  ])
  let whole: Recital
  beforeAll(() => {
    whole = recite(promptTokens("Hi"))
  })

  // libllama and the reference differ by less than 0.01, which is F16 arithmetic.
  test.each(scales)("layer %d times %d: other logits at each token, the same text", (layer, by) => {
    const layerScale = Array.from({ length: LAYERS }, (_, index) => (index === layer ? by : 1))
    const changed = recite(promptTokens("Hi"), layerScale)
    expect(changed.tokens).toEqual(whole.tokens)
    expect(changed.smallestMargin).toBeGreaterThan(6)
    for (const [step, logits] of changed.logits.entries()) {
      expect(largestDifference(logits, whole.logits[step]!)).toBeGreaterThan(0.05)
    }
  })

  test("sees the earlier tokens: another prompt gives other logits to the end", () => {
    const other = recite(promptTokens("Ho"))
    for (const [step, logits] of other.logits.entries()) {
      expect(largestDifference(logits, whole.logits[step]!)).toBeGreaterThan(0.005)
    }
  })
})
