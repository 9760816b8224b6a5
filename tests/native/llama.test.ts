/** `@ggml-rpc/native`'s Llama on models whose logits are known. */
import { ptr } from "bun:ffi"
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  decodeStatusText,
  io,
  type KvTypeName,
  kvTypes,
  Llama,
  type ModelContext,
  type ModelOptions,
  type SamplerOptions,
} from "@ggml-rpc/native"
import { Cause, Effect, Exit, Scope } from "effect"
import { failingDevice } from "./failingDevice.ts"
import {
  countingVocabulary,
  countingWeight,
  dim,
  embeddingScale,
  expectedLogits,
  headDim,
  layerCount,
  type TinyLlama,
  tokenOf,
  trainContextSize,
  vocabSize,
  writeTinyLlama,
} from "./tinyLlama.ts"

let folder = ""
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-native-"))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

let fileCount = 0
const write = (model: TinyLlama): string => {
  const path = join(folder, `${fileCount++}.gguf`)
  writeTinyLlama(path, model)
  return path
}

const run = <A, E>(effect: Effect.Effect<A, E, Llama.Llama | Scope.Scope>): Promise<A> =>
  Effect.runPromise(effect.pipe(Effect.scoped, Effect.provide(Llama.layer)))

const load = (model: TinyLlama | string, options?: ModelOptions) =>
  Effect.flatMap(Llama.Llama, ({ loadModel }) =>
    loadModel(typeof model === "string" ? model : write(model), options),
  )

const counting: TinyLlama = { vocabulary: countingVocabulary, outputWeight: countingWeight }
/** Its layers attend to earlier tokens, so that positions and the cache matter. */
const attending: TinyLlama = { ...counting, layerSigma: 0.1 }

const threads = 1
const tokens = (...ids: ReadonlyArray<number>): Int32Array => Int32Array.from(ids)
const close = (actual: Iterable<number>, expected: ReadonlyArray<number>): void => {
  const values = [...actual]
  expect(values.length).toBe(expected.length)
  for (const [index, value] of values.entries()) expect(value).toBeCloseTo(expected[index]!, 3)
}
const dies = (exit: Exit.Exit<unknown, unknown>): string =>
  Exit.isFailure(exit) && Cause.isDie(exit.cause) ? Cause.pretty(exit.cause) : "lived"

describe("a model", () => {
  test("tells what it is", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(counting)
        expect(model.info).toMatchObject({
          architecture: "llama",
          layerCount,
          nextnLayerCount: 0,
          trainContextSize,
          embeddingSize: dim,
          outputEmbeddingSize: dim,
          vocabSize,
          hasTokenizer: true,
          hasEncoder: false,
          hasDecoder: true,
          isRecurrent: false,
          beginToken: 1,
          endToken: 2,
          addsBeginToken: true,
          beginText: "<s>",
          endText: "</s>",
          chatTemplate: undefined,
        })
        const parameters = 2 * dim * vocabSize + dim + layerCount * (2 * dim + 7 * dim * headDim)
        expect(model.info.parameterCount).toBe(parameters)
        expect(model.info.sizeBytes).toBe(parameters * 4)
        expect(model.info.description).toContain("llama")
        expect(model.metadata("general.name")).toBe("tiny")
        expect(model.metadata("llama.block_count")).toBe(String(layerCount))
        expect(model.metadata("no.such.key")).toBeUndefined()
        expect(model.isEndOfGeneration(2)).toBe(true)
        expect(model.isEndOfGeneration(3)).toBe(false)
      }),
    ))

  test("gives long metadata whole", () =>
    run(
      Effect.gen(function* () {
        const value = "ä".repeat(3000)
        const model = yield* load({
          ...counting,
          metadata: [
            ["tokenizer.chat_template", { type: "string", value }],
            ["tokenizer.chat_template.tool_use", { type: "string", value: "{{ tools }}" }],
          ],
        })
        expect(model.metadata("tokenizer.chat_template")).toBe(value)
        expect(model.info).toMatchObject({
          chatTemplate: value,
          toolUseChatTemplate: "{{ tools }}",
        })
      }),
    ))

  test("loads its vocabulary alone", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(counting, { vocabOnly: true })
        expect(model.info.vocabSize).toBe(vocabSize)
        expect([...(yield* model.tokenize("ab"))]).toEqual([1, tokenOf("▁ab")])
        expect(dies(yield* Effect.exit(model.newContext()))).toContain("vocabOnly")
      }),
    ))
})

describe("the tokenizer", () => {
  test("finds words, falls back to bytes, and turns them back into text", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(counting)
        const ids = yield* model.tokenize("ab aab 😀")
        const byteOf = (byte: number) => 3 + byte
        expect([...ids]).toEqual([
          1,
          ...["▁ab", "▁a", "a", "b", "▁"].map(tokenOf),
          ...[0xf0, 0x9f, 0x98, 0x80].map(byteOf),
        ])
        const detokenizer = model.detokenizer()
        const texts = [...ids].map((id) => detokenizer.push(id))
        expect(texts).toEqual(["", " ab", " a", "a", "b", " ", "", "", "", "😀"])
        expect(detokenizer.finish()).toBe("")
        expect([...(yield* model.tokenize("ab", { addSpecial: false }))]).toEqual([tokenOf("▁ab")])
        expect([...(yield* model.tokenize("</s>", { parseSpecial: true }))]).toEqual([1, 2])
        expect([...(yield* model.tokenize(""))]).toEqual([1])
      }),
    ))

  test("gives pieces as bytes", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(counting)
        expect([...model.piece(3 + 0x98)]).toEqual([0x98])
        expect(new TextDecoder().decode(model.piece(tokenOf("▁a")))).toBe(" a")
        expect(model.piece(2).length).toBe(0)
        expect(new TextDecoder().decode(model.piece(2, true))).toBe("</s>")
        for (const outside of [-1, vocabSize, 2 ** 31]) expect(model.piece(outside).length).toBe(0)
      }),
    ))

  test("gives long pieces whole", () =>
    run(
      Effect.gen(function* () {
        const long = "x".repeat(1000)
        const names = countingVocabulary.tokens.with(300, long)
        const model = yield* load({
          ...counting,
          vocabulary: { ...countingVocabulary, tokens: names },
        })
        expect(new TextDecoder().decode(model.piece(300))).toBe(long)
        expect(new TextDecoder().decode(model.piece(tokenOf("▁a")))).toBe(" a")
      }),
    ))

  test("that is not there is a typed error", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load({ outputWeight: countingWeight })
        expect(model.info.hasTokenizer).toBe(false)
        expect(model.info.vocabSize).toBe(vocabSize)
        const error = yield* Effect.flip(model.tokenize("ab"))
        expect(error).toMatchObject({ _tag: "TokenizeError", reason: "none", path: model.path })
        expect(error.message).toContain("has no tokenizer")
        expect(model.piece(260).length).toBe(0)
      }),
    ))

  test("that lacks a byte is a typed error, not the end of the process", () =>
    run(
      Effect.gen(function* () {
        // Bytes 0 to 255 become words: nothing is left to fall back to.
        const words = countingVocabulary.tokens.map((name, id) =>
          id >= 3 && id < 259 ? `▁other${id}` : name,
        )
        const types = countingVocabulary.types.map((type) => (type === 6 ? 1 : type))
        const model = yield* load({
          ...counting,
          vocabulary: { ...countingVocabulary, tokens: words, types },
        })
        const error = yield* Effect.flip(model.tokenize("ab ü"))
        expect(error).toMatchObject({ _tag: "TokenizeError", reason: "text" })
        expect([...(yield* model.tokenize("ab"))]).toEqual([1, tokenOf("▁ab")])
      }),
    ))
})

describe("a context", () => {
  const sum = (context: ModelContext, field: "modelBytes" | "contextBytes" | "computeBytes") =>
    context.memoryBreakdown().reduce((bytes, row) => bytes + row[field], 0)

  /** Block bytes over block elements, as ggml-common.h has them. */
  const kvElementBytes = {
    f32: 4,
    f16: 2,
    bf16: 2,
    q8_0: 34 / 32,
    q5_1: 24 / 32,
    q5_0: 22 / 32,
    q4_1: 20 / 32,
    q4_0: 18 / 32,
    iq4_nl: 18 / 32,
  }

  test("gives the logits that the weights say", () =>
    run(
      Effect.gen(function* () {
        const weight = (from: number, to: number) => ((from * 31 + to * 17) % 11) / 11
        const model = yield* load({ outputWeight: weight })
        const context = yield* model.newContext({ threads })
        expect(context.decode(tokens(5, 6, 7))).toBe(0)
        close(context.logits(), expectedLogits({ outputWeight: weight }, 7))
        close(context.logits(2), expectedLogits({ outputWeight: weight }, 7))
        expect(() => context.logits(0)).toThrow("no logits at index 0")
        expect(() => context.logits(3)).toThrow(RangeError)
        expect(() => context.allLogits(2)).toThrow(RangeError)
        expect(context.decode(tokens(8, 9, 10), { allOutputs: true })).toBe(0)
        const all = [8, 9, 10].map((token) => expectedLogits({ outputWeight: weight }, token))
        close(context.allLogits(3), all.flat())
        close(context.allLogits(2), all.slice(1).flat())
        for (const [index, row] of all.entries()) close(context.logits(index), row)
      }),
    ))

  test("has the sizes it was asked for", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(counting)
        const asked = yield* model.newContext({ contextSize: 256, batchSize: 64, ubatchSize: 16 })
        expect([asked.contextSize, asked.batchSize, asked.ubatchSize]).toEqual([256, 64, 16])
        const byDefault = yield* model.newContext()
        expect([byDefault.contextSize, byDefault.batchSize, byDefault.ubatchSize]).toEqual([
          trainContextSize,
          // 2048, and never more than the context.
          trainContextSize,
          512,
        ])
        expect(byDefault.pooling).toBe(0)
      }),
    ))

  const last = (context: ModelContext) => context.logits().slice()

  test("remembers, forgets from a position on, and forgets everything", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(attending)
        const context = yield* model.newContext({ threads })
        context.decode(tokens(10, 20, 30))
        const whole = last(context)
        context.clearMemory()
        context.decode(tokens(30))
        expect(last(context)).not.toEqual(whole)
        context.clearMemory()
        context.decode(tokens(10, 20, 99))
        expect(context.removeFrom(2)).toBe(true)
        context.decode(tokens(30))
        close(last(context), [...whole])
        expect(context.removeFrom(2)).toBe(true)
        context.decode(tokens(30), { firstPosition: 2 })
        close(last(context), [...whole])
        // Position 2 is taken: this is no continuation.
        expect(context.decode(tokens(30), { firstPosition: 1 })).toBe(-1)
      }),
    ))

  test("with fewer bits in its cache gives almost the same", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(attending)
        const plain = yield* model.newContext({ threads, typeK: kvTypes.f32, typeV: kvTypes.f32 })
        plain.decode(tokens(10, 20, 30))
        for (const [name, elementBytes] of Object.entries(kvElementBytes)) {
          const type = kvTypes[name as KvTypeName]
          const context = yield* model.newContext({ threads, typeK: type, typeV: type })
          context.decode(tokens(10, 20, 30))
          const [expected, actual] = [plain.logits(), context.logits()]
          const dot = expected.reduce((sum, value, i) => sum + value * actual[i]!, 0)
          const norm = (values: Float32Array) => Math.hypot(...values)
          expect(dot / norm(expected) / norm(actual)).toBeGreaterThan(
            elementBytes < 1 ? 0.95 : 0.999,
          )
          expect(sum(context, "contextBytes")).toBe(
            trainContextSize * layerCount * 2 * headDim * elementBytes,
          )
        }
      }),
    ))

  test("says when its cache is full, and takes more after forgetting", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(counting)
        const context = yield* model.newContext({ contextSize: 256, threads })
        const many = Int32Array.from({ length: 256 }, (_, index) => 3 + index)
        expect(context.decode(many)).toBe(0)
        const status = context.decode(tokens(5))
        expect(status).toBe(1)
        expect(decodeStatusText(status)).toContain("KV cache")
        expect(context.removeFrom(200)).toBe(true)
        expect(context.decode(tokens(5))).toBe(0)
      }),
    ))

  test("refuses what would end the process", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(counting)
        const context = yield* model.newContext({ contextSize: 256, batchSize: 32, threads })
        expect(() => context.decode(new Int32Array(33))).toThrow("this context takes 1 to 32")
        expect(() => context.decode(new Int32Array(0))).toThrow(RangeError)
        expect(() => context.encode(tokens(5))).toThrow("no encoder")
        expect(context.decode(tokens(vocabSize))).toBe(-1)
        expect(context.decode(tokens(-1))).toBe(-1)
        expect(decodeStatusText(-1)).toContain("not valid")
      }),
    ))

  test("gives embeddings, pooled or not", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(counting)
        const plain = yield* model.newContext({ threads, embeddings: true, pooling: 0 })
        plain.decode(tokens(5, 6))
        const expected = (token: number, scale: number) =>
          Array.from({ length: dim }, (_, i) => (i === token ? scale : 0))
        close(plain.embeddings(0), expected(5, embeddingScale))
        close(plain.embeddings(), expected(6, embeddingScale))
        expect(plain.sequenceEmbeddings()).toBeUndefined()
        expect(() => plain.embeddings(2)).toThrow("no embeddings at index 2")
        const mean = yield* model.newContext({ threads, embeddings: true, pooling: 1 })
        expect(mean.pooling).toBe(1)
        mean.decode(tokens(5, 6))
        const pooled = mean.sequenceEmbeddings()
        if (pooled === undefined) throw new Error("nothing was pooled")
        const both = expected(5, embeddingScale / 2).with(6, embeddingScale / 2)
        close(pooled, both)
      }),
    ))

  test("stops when the abort flag is raised", () =>
    run(
      Effect.gen(function* () {
        const abortFlag = Number(io().io_abort_flag())
        const path = write(attending)
        const model = yield* load(path)
        const context = yield* model.newContext({ threads, abortFlag })
        io().io_raise_abort()
        try {
          expect(context.decode(tokens(5, 6))).toBe(2)
          const error = yield* Effect.flip(load(path, { abortFlag }))
          expect(error).toMatchObject({ _tag: "ModelLoadError", reason: "aborted" })
        } finally {
          // Watching nobody lowers the flag.
          io().io_watch_client(-1)
        }
        expect(context.decode(tokens(5, 6))).toBe(0)
      }),
    ))

  test("tells what it takes on each device", async () => {
    const device = failingDevice()
    device.allow = 100
    try {
      await run(
        Effect.gen(function* () {
          const model = yield* load(counting, { devices: [device.address], mmap: false })
          const context = yield* model.newContext({ contextSize: 256, threads })
          const rows = context.memoryBreakdown()
          const there = rows.find(({ deviceAddress }) => deviceAddress === device.address)
          expect(there).toMatchObject({
            bufferTypeName: "FULL0[a full device]",
            isHost: false,
            contextBytes: 256 * layerCount * 2 * headDim * 2,
          })
          // The embeddings stay here.
          const here = rows.find(({ isHost }) => isHost)
          expect(here?.deviceAddress).toBeNull()
          expect(here?.modelBytes).toBeGreaterThanOrEqual(dim * vocabSize * 4)
          expect(there!.modelBytes + here!.modelBytes).toBeGreaterThanOrEqual(model.info.sizeBytes)
        }),
      )
    } finally {
      device.close()
    }
  })

  test.skipIf(process.platform !== "linux")("keeps its weights from being swapped out", () =>
    run(
      Effect.gen(function* () {
        const lockedKib = () =>
          Number(/^VmLck:\s*(\d+)/m.exec(readFileSync("/proc/self/status", "utf8"))![1])
        const path = write(counting)
        const before = lockedKib()
        const model = yield* load(path, { mlock: true })
        expect((lockedKib() - before) * 1024).toBeGreaterThan(model.info.sizeBytes * 0.9)
      }),
    ),
  )

  test("tells what it takes, with simulated weights too", () =>
    run(
      Effect.gen(function* () {
        const sums = (context: ModelContext) => {
          const rows = context.memoryBreakdown()
          expect(rows.every(({ isHost }) => isHost)).toBe(true)
          expect(rows.map(({ bufferTypeName }) => bufferTypeName)).toContain("CPU")
          return [
            sum(context, "modelBytes"),
            sum(context, "contextBytes"),
            sum(context, "computeBytes"),
          ]
        }
        const path = write(counting)
        const options = { contextSize: 256, threads, typeK: kvTypes.f16, typeV: kvTypes.f16 }
        const model = yield* load(path, { mmap: false })
        const real = sums(yield* model.newContext(options))
        expect(real[0]).toBeGreaterThanOrEqual(model.info.sizeBytes)
        expect(real[0]).toBeLessThan(model.info.sizeBytes * 1.1)
        // K and V, 2 bytes an element.
        expect(real[1]).toBe(256 * layerCount * 2 * headDim * 2)
        expect(real[2]).toBeGreaterThan(0)
        const simulated = yield* load(path, { mmap: false, noAlloc: true })
        const context = yield* simulated.newContext(options)
        expect(sums(context)).toEqual(real)
        expect(() => context.decode(tokens(5))).toThrow("noAlloc")
      }),
    ))
})

describe("a sampler", () => {
  /** After 10 come 11, 12 and 13 with falling likelihood, and after each of these 10 again. */
  const choice: TinyLlama = {
    vocabulary: countingVocabulary,
    outputWeight: (from, to) => {
      if (from === 10) return { 11: 0.3, 12: 0.29, 13: 0.2 }[to] ?? 0
      return to === 10 ? 1 : 0
    },
  }

  const sampled = (model: TinyLlama, options: SamplerOptions, first: number, count: number) =>
    run(
      Effect.gen(function* () {
        const loaded = yield* load(model)
        const context = yield* loaded.newContext({ threads })
        const sampler = yield* loaded.newSampler(options)
        const chosen: Array<number> = []
        for (let token = first; chosen.length < count; chosen.push(token)) {
          context.decode(tokens(token))
          token = sampler.sample(context)
        }
        return chosen
      }),
    )

  test("at temperature 0 takes the best", async () => {
    expect(await sampled(counting, { temp: 0 }, 10, 5)).toEqual([11, 12, 13, 14, 15])
  })

  test("takes its temperature from the model where none is given", async () => {
    const cold: TinyLlama = {
      ...counting,
      metadata: [["general.sampling.temp", { type: "float32", value: 0 }]],
    }
    expect(await sampled(cold, {}, 10, 5)).toEqual([11, 12, 13, 14, 15])
    // Logits of at most 1 at temperature 100: anything may come.
    const warm = await sampled(cold, { temp: 100, topK: 0, topP: 1, minP: 0, seed: 1 }, 10, 20)
    expect(warm).not.toEqual(Array.from({ length: 20 }, (_, index) => 11 + index))
  })

  test("with a seed repeats itself; reset starts again", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(choice)
        const context = yield* model.newContext({ threads })
        context.decode(tokens(10))
        const series = (sampler: { sample: (context: ModelContext) => number }) =>
          Array.from({ length: 30 }, () => sampler.sample(context))
        const sampler = yield* model.newSampler({ seed: 42 })
        const first = series(sampler)
        expect(new Set(first).size).toBeGreaterThan(1)
        expect(series(sampler)).not.toEqual(first)
        sampler.reset()
        expect(series(sampler)).toEqual(first)
        expect(series(yield* model.newSampler({ seed: 42 }))).toEqual(first)
        expect(series(yield* model.newSampler({ seed: 43 }))).not.toEqual(first)
        expect(new Set(series(yield* model.newSampler({ topK: 1 }))).size).toBe(1)
      }),
    ))

  test("keeps the most likely tokens only, by count and by probability", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(choice)
        const context = yield* model.newContext({ threads })
        context.decode(tokens(10))
        const seen = (options: SamplerOptions) =>
          Effect.map(
            model.newSampler({ topK: 0, topP: 1, minP: 0, seed: 5, ...options }),
            (sampler) =>
              [...new Set(Array.from({ length: 300 }, () => sampler.sample(context)))].sort(
                (a, b) => a - b,
              ),
          )
        expect(yield* seen({ topK: 2, temp: 1 })).toEqual([11, 12])
        expect(yield* seen({ topK: 3, temp: 1 })).toEqual([11, 12, 13])
        // The weights above, scaled: 13 is e^-1.8 as likely as 11.
        expect(yield* seen({ minP: 0.5, temp: 1 })).toEqual([11, 12])
        // Among these three 11 has a probability of 0.5.
        expect(yield* seen({ topK: 3, topP: 0.45, temp: 1 })).toEqual([11])
        expect(yield* seen({ topK: 3, topP: 0.55, temp: 1 })).toEqual([11, 12])
      }),
    ))

  test("penalizes repetition, of accepted tokens too", async () => {
    expect(await sampled(choice, { temp: 0 }, 10, 6)).toEqual([11, 10, 11, 10, 11, 10])
    // 11 loses to 12 after it was chosen, then both were.
    expect(await sampled(choice, { temp: 0, repeatPenalty: 1.2 }, 10, 4)).toEqual([11, 10, 12, 10])
    // Two tokens back lies the last choice; with one, only the 10 before.
    const short = { temp: 0, repeatPenalty: 1.2, repeatLastN: 1 }
    expect(await sampled(choice, short, 10, 4)).toEqual([11, 10, 11, 10])
    await run(
      Effect.gen(function* () {
        const model = yield* load(choice)
        const context = yield* model.newContext({ threads })
        const sampler = yield* model.newSampler({ temp: 0, repeatPenalty: 1.2 })
        sampler.accept(11)
        context.decode(tokens(10))
        expect(sampler.sample(context)).toBe(12)
      }),
    )
  })

  test("refuses a penalty that is none", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(choice)
        for (const repeatPenalty of [0, -1, Number.NaN]) {
          const exit = yield* Effect.exit(model.newSampler({ repeatPenalty }))
          expect(dies(exit)).toContain("repeat penalty")
        }
      }),
    ))

  test("never ends when told so, and never chooses what the model suppresses", async () => {
    const ending: TinyLlama = {
      vocabulary: countingVocabulary,
      outputWeight: (_from, to) => ({ 2: 1, 20: 0.8, 30: 0.5 })[to] ?? 0,
    }
    expect(await sampled(ending, { temp: 0 }, 10, 1)).toEqual([2])
    expect(await sampled(ending, { temp: 0, ignoreEos: true }, 10, 1)).toEqual([20])
    const suppressing: TinyLlama = {
      ...ending,
      metadata: [
        ["tokenizer.ggml.suppress_tokens", { type: "array", elementType: "int32", values: [20] }],
      ],
    }
    expect(await sampled(suppressing, { temp: 0, ignoreEos: true }, 10, 1)).toEqual([30])
  })

  test("chooses among what servers found of parts of the logits, and takes nothing else from them", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(choice)
        const context = yield* model.newContext({ threads, candidates: "read" })
        const sampler = yield* model.newSampler({ temp: 0 })
        context.decode(tokens(10))
        expect(sampler.sample(context)).toBe(11)
        const logits = context.logits()
        // As if a server with the tokens from 16 on had been asked: the place of its part in another row than this one.
        const begin = 16
        const columns = vocabSize - begin
        const place = BigInt(ptr(logits) + 4 * begin + 8 * vocabSize)
        const rows = new BigUint64Array(context.foundRows!.buffer)
        const find = (...found: ReadonlyArray<readonly [number, number]>): void => {
          rows.set([4n * BigInt(vocabSize), 1n, place, BigInt(columns), BigInt(found.length)])
          const view = new DataView(logits.buffer, logits.byteOffset + 4 * begin)
          for (const [at, [index, value]] of found.entries()) {
            view.setUint32(8 * at, index, true)
            view.setFloat32(8 * at + 4, value, true)
          }
        }
        find([2, 9], [7, 20])
        expect(sampler.sample(context)).toBe(begin + 7)
        find([0, 20], [columns - 1, 20])
        expect(sampler.sample(context)).toBe(begin)
        find([2, -100], [7, -200])
        expect(sampler.sample(context)).toBe(11)
        for (const indexes of [[columns], [2 ** 32 - 1], [3, 3], [4, 3]]) {
          find(...indexes.map((index) => [index, 50] as const))
          expect(() => sampler.sample(context)).toThrow("a server named tokens")
        }
        find([2, 9])
        const grammar = yield* model.newSampler({ temp: 0, grammar: 'root ::= "a"' })
        expect(() => grammar.sample(context)).toThrow("a grammar needs all logits")
        for (const look of [
          () => context.logits(),
          () => context.allLogits(1),
          () => context.logprobs(1, 1),
        ]) {
          expect(look).toThrow("has the most likely tokens alone")
        }
        rows[2] = place + 4n
        expect(() => sampler.sample(context)).toThrow("parts of the logits")
        context.decode(tokens(10))
        expect(context.logits()).toHaveLength(vocabSize)
        expect(sampler.sample(context)).toBe(11)
      }),
    ))

  test("without logits throws instead of ending the process", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(choice)
        const context = yield* model.newContext({ threads })
        const sampler = yield* model.newSampler()
        expect(() => sampler.sample(context)).toThrow("no logits")
      }),
    ))
})

describe("scopes", () => {
  test("close what was made in them, and using it then throws", async () => {
    const { model, context, sampler } = await run(
      Effect.gen(function* () {
        const model = yield* load(counting)
        const context = yield* model.newContext({ threads })
        context.decode(tokens(5))
        return { model, context, sampler: yield* model.newSampler() }
      }),
    )
    expect(() => context.decode(tokens(5))).toThrow("after its release")
    expect(() => context.logits()).toThrow("after its release")
    expect(() => context.clearMemory()).toThrow("after its release")
    expect(() => context.memoryBreakdown()).toThrow("after its release")
    expect(() => sampler.accept(5)).toThrow("after its release")
    expect(() => model.piece(5)).toThrow("after its release")
    expect(() => model.metadata("general.name")).toThrow("after its release")
  })

  test("of a model end contexts that outlive it", () =>
    run(
      Effect.gen(function* () {
        const modelScope = yield* Scope.make()
        const model = yield* Scope.extend(load(counting), modelScope)
        const context = yield* model.newContext({ threads })
        yield* Scope.close(modelScope, Exit.void)
        expect(() => context.decode(tokens(5))).toThrow("after its release")
      }),
    ))
})

describe("a model that does not load", () => {
  const failure = (path: string, options?: ModelOptions) => run(Effect.flip(load(path, options)))

  test("is not there", async () => {
    const path = join(folder, "none.gguf")
    const error = await failure(path)
    expect(error).toMatchObject({ _tag: "ModelLoadError", reason: "file", path })
    expect(error.message).toContain(path)
  })

  test("is no GGUF file", async () => {
    const path = join(folder, "text.gguf")
    writeFileSync(path, "This is a text.\n".repeat(100))
    const error = await failure(path)
    expect(error).toMatchObject({ reason: "model", path })
    expect(error.message).toContain("invalid magic")
    expect(error.log).toContain("failed to load model")
  })

  test("is cut off", async () => {
    const path = write(counting)
    truncateSync(path, 900_000)
    const error = await failure(path)
    expect(error.reason).toBe("model")
    expect(error.message).toContain("not within the file bounds")
  })

  test("was asked for with options that cannot be met", async () => {
    const path = write(counting)
    const split = await failure(path, { tensorSplit: [1, 2] })
    expect(split).toMatchObject({ reason: "options" })
    expect(split.message).toContain("2 numbers for 0 devices")
    const many = await failure(path, { devices: new Array(100).fill(8) })
    expect(many.message).toMatch(/100 devices .* at most \d+/)
  })

  test("or makes no context for want of memory says so", async () => {
    const device = failingDevice()
    try {
      const path = write(counting)
      const devices = [device.address]
      const error = await failure(path, { devices, mmap: false })
      expect(error).toMatchObject({ reason: "memory", path })
      expect(error.message).toContain("has no room for its part")
      expect(error.log).toContain("FULL0")
      device.allow = 1
      const contextError = await run(
        Effect.gen(function* () {
          const model = yield* load(path, { devices, mmap: false, tensorSplit: [1] })
          return yield* Effect.flip(model.newContext({ contextSize: 256, threads }))
        }),
      )
      expect(contextError).toMatchObject({ _tag: "ContextError", reason: "memory" })
      expect(contextError.message).toContain("a context of 256 tokens")
      expect(contextError.log).toContain("FULL0")
    } finally {
      device.close()
    }
  })

  test("or makes no context says why", () =>
    run(
      Effect.gen(function* () {
        const model = yield* load(counting)
        const error = yield* Effect.flip(
          model.newContext({ flashAttention: 0, typeV: kvTypes.q8_0, threads }),
        )
        expect(error).toMatchObject({ _tag: "ContextError", reason: "model" })
        expect(error.message).toContain("quantized V cache requires flash_attn")
      }),
    ))
})
