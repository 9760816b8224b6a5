import { dlopen, FFIType } from "bun:ffi"
import { describe, expect, test } from "bun:test"
import type { GgufTensorToWrite } from "@ggml-rpc/gguf"
import { librarySet } from "@ggml-rpc/native/bindings"
import { quantize } from "./quantize.ts"
import { randomTensor } from "./random.ts"

describe("random tensors", () => {
  test("repeat by seed and do not depend on the piece size", () => {
    for (const type of ["F32", "F16", "Q8_0", "Q4_0"] as const) {
      const tensor = randomTensor("w", type, [64, 6], 5)
      const rowBytes = readBack(type).rowBytes
      const whole = new Uint8Array(rowBytes * 6)
      tensor.fill(whole, 0)
      const pieces = new Uint8Array(rowBytes * 6)
      tensor.fill(pieces.subarray(0, rowBytes * 2), 0)
      tensor.fill(pieces.subarray(rowBytes * 2), 2)
      expect(pieces).toEqual(whole)
      const other = new Uint8Array(rowBytes * 6)
      randomTensor("w", type, [64, 6], 6).fill(other, 0)
      expect(other).not.toEqual(whole)
    }
  })

  test("have the deviation asked for", () => {
    for (const type of ["F32", "F16", "Q8_0", "Q4_0"] as const) {
      const values = readBack(type).values(randomTensor("w", type, [256, 64], 9, 0.05))
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length
      const square = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length
      expect(Math.abs(mean)).toBeLessThan(0.007)
      expect(Math.sqrt(square)).toBeGreaterThan(0.04)
      expect(Math.sqrt(square)).toBeLessThan(0.06)
    }
  })
})

test("random Q4_K is what ggml reads as such, with the deviation asked for", () => {
  const { symbols } = dlopen(librarySet().ggmlBase, {
    dequantize_row_q4_K: { args: ["ptr", "ptr", FFIType.i64], returns: "void" },
  })
  const tensor = randomTensor("w", "Q4_K", [512, 32], 9, 0.05)
  const values = new Float32Array(512 * 32)
  const bytes = new Uint8Array((values.length / 256) * 144)
  tensor.fill(bytes, 0)
  symbols.dequantize_row_q4_K(bytes, values, values.length)
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  const square = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length
  expect(Math.abs(mean)).toBeLessThan(0.007)
  expect(Math.sqrt(square)).toBeGreaterThan(0.04)
  expect(Math.sqrt(square)).toBeLessThan(0.06)
})

/** Unpacks the four types, independently of the packing under test. */
const readBack = (type: "F32" | "F16" | "Q8_0" | "Q4_0") => {
  const blockBytes = { F32: 128, F16: 64, Q8_0: 34, Q4_0: 18 }[type]
  const value = (view: DataView, block: number, i: number): number => {
    const at = block * blockBytes
    if (type === "F32") return view.getFloat32(at + 4 * i, true)
    if (type === "F16") return view.getFloat16(at + 2 * i, true)
    const scale = view.getFloat16(at, true)
    if (type === "Q8_0") return scale * view.getInt8(at + 2 + i)
    return scale * (((view.getUint8(at + 2 + (i % 16)) >> (i < 16 ? 0 : 4)) & 15) - 8)
  }
  return {
    blockBytes,
    rowBytes: 2 * blockBytes,
    values: (tensor: GgufTensorToWrite): number[] => {
      const count = tensor.ne.reduce((product, n) => product * n, 1)
      const bytes = new Uint8Array((count / 32) * blockBytes)
      tensor.fill(bytes, 0)
      const view = new DataView(bytes.buffer)
      return Array.from({ length: count }, (_, i) => value(view, Math.floor(i / 32), i % 32))
    },
  }
}

describe("quantization", () => {
  // From llama.cpp v0.5.0: `ggml_quantize_chunk(type, values, out, 0, 1, 64, NULL)` in libggml-base
  // on exactly these values.
  const values = Float32Array.from({ length: 64 }, (_, i) =>
    i < 32 ? (i - 16) * 0.37 : (((i * 7919) % 64) - 20) / 13,
  )
  test.each([
    [
      "Q8_0" as const,
      "f72981899199a1a9b1b9c1c8d0d8e0e8f0f800081018202830383f474f575f676f77" +
        "ab2623f17c4a18e5703e0cda643200ce5926f47f4d1be873410fdd673503d15c29f7",
    ],
    ["Q4_0" as const, "ec39809091a2a2b2b3c4c4d5d5e6e6f7f7f89eb696093063971a4174a71a5285b82b5296"],
  ])("%s is ggml's, byte for byte", (type, expected) => {
    const bytes = new Uint8Array(expected.length / 2)
    quantize(type, values, bytes)
    expect(bytes.toHex()).toBe(expected)
  })

  test("a block of zeros stays zero", () => {
    for (const type of ["Q8_0", "Q4_0"] as const) {
      const packed = new Uint8Array(2 * readBack(type).blockBytes).fill(255)
      quantize(type, new Float32Array(64), packed)
      const tensor = {
        name: "zero",
        type,
        ne: [64],
        fill: (target: Uint8Array) => target.set(packed),
      }
      expect(
        readBack(type)
          .values(tensor)
          .every((value) => value === 0),
      ).toBe(true)
    }
  })
})
