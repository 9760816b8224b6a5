/* A u64 as a plain number, in the places where it lies as two halves. What a number cannot hold exactly is -1. */

const TWO_32 = 0x1_0000_0000

/** The u64 of two unsigned halves, or -1 when it is 2^53 or more and would lose bits. */
export const joinU64 = (low: number, high: number): number =>
  high > 0x1f_ffff ? -1 : high * TWO_32 + low

/** The upper half of a safe non-negative integer; `value >>> 0` is the lower one. */
export const upperHalf = (value: number): number => Math.floor(value / TWO_32)

/** The u64 at `offset`, or -1 when it is 2^53 or more. */
export const readU64AsNumber = (view: DataView, offset: number): number =>
  joinU64(view.getUint32(offset, true), view.getUint32(offset + 4, true))

/** Writes a safe non-negative integer as u64. The caller guarantees `0 <= value < 2^53`. */
export const writeU64FromNumber = (view: DataView, offset: number, value: number): void => {
  view.setUint32(offset, value >>> 0, true)
  view.setUint32(offset + 4, upperHalf(value), true)
}
