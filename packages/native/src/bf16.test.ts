/** The shim's rounding to bf16 is ggml's, bit by bit. */
import { dlopen } from "bun:ffi"
import { expect, test } from "bun:test"
import { ggml } from "./libggml.ts"
import { librarySet } from "./libraries.ts"

const rounded = (bits: Uint32Array): Uint16Array => {
  const halves = new Uint16Array(bits.length)
  ggml().gs_bf16_from_f32(halves, bits, bits.length)
  return halves
}

const widened = (halves: Uint16Array): Uint32Array => {
  const bits = new Uint32Array(halves.length)
  ggml().gs_f32_from_bf16(bits, halves, halves.length)
  return bits
}

test.each<readonly [string, number, number]>([
  ["zero", 0x0000_0000, 0x0000],
  ["its negative", 0x8000_0000, 0x8000],
  ["one", 0x3f80_0000, 0x3f80],
  ["what is nearer to the lower one", 0x3f80_7fff, 0x3f80],
  ["what is nearer to the higher one", 0x3f80_8001, 0x3f81],
  ["a tie below an odd one: down", 0x3f80_8000, 0x3f80],
  ["a tie above an odd one: up", 0x3f81_8000, 0x3f82],
  ["a carry into the exponent", 0x3fff_8000, 0x4000],
  ["the smallest that is not normal", 0x0000_0001, 0x0000],
  ["one that is not normal, rounded alike: a tie up", 0x0001_8000, 0x0002],
  ["the largest that is not normal: to a normal one", 0x007f_ffff, 0x0080],
  ["the largest: beyond what there is", 0x7f7f_ffff, 0x7f80],
  ["infinity", 0x7f80_0000, 0x7f80],
  ["its negative", 0xff80_0000, 0xff80],
  ["NaN", 0x7fc0_0000, 0x7fc0],
  ["NaN that is infinity above: it stays none", 0x7f80_0001, 0x7fc0],
  ["a negative one of all bits", 0xffff_ffff, 0xffff],
])("%s", (_, bits, half) => {
  expect(rounded(Uint32Array.of(bits))[0]).toBe(half)
})

test("every bf16 is itself again", () => {
  const all = Uint16Array.from({ length: 65_536 }, (_, half) => half)
  const again = rounded(widened(all))
  for (const [half, found] of again.entries()) {
    const isSignalling = (half & 0x7fff) > 0x7f80 && (half & 0x40) === 0
    if (found !== (isSignalling ? half | 0x40 : half)) expect([half, found]).toEqual([half, half])
  }
})

test("as ggml rounds, around every border", () => {
  const reference = dlopen(librarySet().ggmlBase, {
    ggml_fp32_to_bf16_row_ref: { args: ["ptr", "ptr", "i64"], returns: "void" },
  })
  const lower = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff]
  const bits = Uint32Array.from({ length: 65_536 * lower.length }, (_, index) => {
    const upper = Math.floor(index / lower.length)
    return upper * 65_536 + lower[index % lower.length]!
  })
  const expected = new Uint16Array(bits.length)
  reference.symbols.ggml_fp32_to_bf16_row_ref(bits, expected, bits.length)
  reference.close()
  expect(
    Buffer.compare(new Uint8Array(rounded(bits).buffer), new Uint8Array(expected.buffer)),
  ).toBe(0)
})
