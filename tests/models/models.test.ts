import { afterAll, beforeAll, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { layerBytes, readGguf, readGgufArray, writeGguf } from "@ggml-rpc/gguf"
import { ensureModel, type RandomModel, randomModel, randomModels } from "./models.ts"
import { quantize } from "./quantize.ts"

let folder = ""
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-models-"))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Elements of all tensors, and bytes as `types` pack them. */
const sizesOf = async (model: RandomModel) => {
  const bytesPerElement = { F32: 4, F16: 2, Q8_0: 34 / 32, Q4_0: 18 / 32 }
  const { tensors } = await randomModel("size", model)
  return tensors.reduce(
    (sum, { type, ne }) => {
      const elements = ne.reduce((product, count) => product * count, 1)
      const bytes = elements * bytesPerElement[type as keyof typeof bytesPerElement]
      return { elements: sum.elements + elements, bytes: sum.bytes + bytes }
    },
    { elements: 0, bytes: 0 },
  )
}

test("the models have the sizes they are for", async () => {
  const { tiny, mixed, q8_0, q4_0, moe, large } = randomModels
  expect((await sizesOf(tiny)).elements).toBe(262_720)
  expect((await sizesOf(mixed)).bytes).toBe(14_918_656)
  expect((await sizesOf(q8_0)).bytes).toBe(57_133_056)
  expect((await sizesOf(q4_0)).bytes).toBe(30_263_296)
  expect((await sizesOf(moe)).bytes).toBe(23_073_280)
  expect((await sizesOf(large)).bytes).toBe(890_071_040)
})

test("a written model is the one described, and always the same", async () => {
  const paths = [join(folder, "a.gguf"), join(folder, "b.gguf")] as const
  for (const path of paths) writeGguf(path, await randomModel("mixed", randomModels.mixed))
  expect(readFileSync(paths[0]).equals(readFileSync(paths[1]))).toBe(true)
  const gguf = readGguf(paths[0])
  expect(gguf.tensorBytes).toBe((await sizesOf(randomModels.mixed)).bytes)
  expect(new Set(gguf.tensors.map((tensor) => tensor.typeName))).toEqual(
    new Set(["F32", "F16", "Q8_0", "Q4_0"]),
  )
  expect(layerBytes(gguf).layers.length).toBe(8)
})

test("models are written once", async () => {
  const path = await ensureModel("tiny")
  const first = readFileSync(path)
  expect(await ensureModel("tiny")).toBe(path)
  expect(readFileSync(path).equals(first)).toBe(true)
  expect(readGguf(path).tensors.length).toBe(39)
})

test("the 32000-token vocabulary is Llama 2's", async () => {
  const path = await ensureModel("q4_0")
  const tokens = readGgufArray(readGguf(path), "tokenizer.ggml.tokens") ?? []
  expect(tokens.length).toBe(32_000)
  expect(new Set(tokens).size).toBe(32_000)
  expect([tokens[1], tokens[263], tokens[15043], tokens[30143]]).toEqual([
    ..."<s>,▁a,▁Hello,\uFEFF".split(","),
  ])
})

test("the demo model is there too", async () => {
  expect(layerBytes(readGguf(await ensureModel("demo"))).layers.length).toBe(8)
})

test("random Q8_0 weights are such as packing gives: finite scales of a sane size", async () => {
  const gguf = readGguf(await ensureModel("q8_0"))
  const tensor = gguf.tensors.find((one) => one.name === "blk.0.attn_q.weight")!
  const start = gguf.parts[0]!.dataOffsetBytes + tensor.offsetBytes
  const bytes = readFileSync(gguf.path).subarray(start, start + tensor.sizeBytes)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  // The scale of a packed row of the same deviation.
  const packed = new Uint8Array(34)
  const largest = Math.sqrt(3 / 512)
  quantize("Q8_0", Float32Array.from({ length: 32 }).fill(largest), packed)
  const expected = new DataView(packed.buffer).getFloat16(0, true)
  for (let at = 0; at < bytes.length; at += 34) {
    const scale = view.getFloat16(at, true)
    expect(scale).toBeGreaterThan(expected * 0.7)
    expect(scale).toBeLessThan(expected * 1.3)
  }
})
