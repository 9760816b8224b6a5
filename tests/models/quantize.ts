/** Types of the random models' tensors. */
export type WritableType = "F32" | "F16" | "Q8_0" | "Q4_0"

const BLOCK = 32

/**
 * Packs `values` (whole blocks) into `target`. Block layouts and rounding are ggml's: ggml-common.h
 * `block_q8_0`, `block_q4_0` and ggml-quants.c `quantize_row_*_ref`, llama.cpp v0.5.0.
 */
export const quantize = (type: WritableType, values: Float32Array, target: Uint8Array): void => {
  switch (type) {
    case "F32":
      target.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
      break
    case "F16":
      new Float16Array(target.buffer, target.byteOffset, values.length).set(values)
      break
    case "Q8_0":
      packBlocks(values, 34, target, packQ8_0)
      break
    case "Q4_0":
      packBlocks(values, 18, target, packQ4_0)
      break
  }
}

type PackBlock = (values: Float32Array, from: number, target: DataView, at: number) => void

const packBlocks = (
  values: Float32Array,
  blockBytes: number,
  target: Uint8Array,
  pack: PackBlock,
): void => {
  const view = new DataView(target.buffer, target.byteOffset, target.byteLength)
  for (let from = 0, at = 0; from < values.length; from += BLOCK, at += blockBytes) {
    pack(values, from, view, at)
  }
}

/** fp16 scale, then 32 signed bytes. */
const packQ8_0: PackBlock = (values, from, target, at) => {
  let largest = 0
  for (let i = 0; i < BLOCK; i++) largest = Math.max(largest, Math.abs(values[from + i]!))
  const scale = Math.fround(largest / 127)
  const inverse = scale === 0 ? 0 : Math.fround(1 / scale)
  target.setFloat16(at, scale, true)
  for (let i = 0; i < BLOCK; i++) {
    target.setInt8(at + 2 + i, roundAway(Math.fround(values[from + i]! * inverse)))
  }
}

/** C's `roundf`: halves away from zero, where `Math.round` takes them up. */
const roundAway = (value: number): number => Math.sign(value) * Math.floor(Math.abs(value) + 0.5)

/** fp16 scale, then 16 bytes: value i in the low half of byte i, value i + 16 in the high half. */
const packQ4_0: PackBlock = (values, from, target, at) => {
  let extreme = 0
  for (let i = 0; i < BLOCK; i++) {
    if (Math.abs(values[from + i]!) > Math.abs(extreme)) extreme = values[from + i]!
  }
  // The value of largest magnitude becomes -8, the one end of the range that has no mirror image.
  const scale = Math.fround(extreme / -8)
  const inverse = scale === 0 ? 0 : Math.fround(1 / scale)
  target.setFloat16(at, scale, true)
  for (let i = 0; i < BLOCK / 2; i++) {
    const low = nibble(values[from + i]!, inverse)
    const high = nibble(values[from + i + BLOCK / 2]!, inverse)
    target.setUint8(at + 2 + i, low | (high << 4))
  }
}

const nibble = (value: number, inverse: number): number =>
  Math.min(15, Math.trunc(Math.fround(Math.fround(value * inverse) + 8.5)))
